//! Failures as a person at a terminal reads them: one line, and an exit code that a script can
//! tell apart.

use std::fmt::Display;

/// Not every row is accounted for, or the counts differ and nothing explains it, or an object of a
/// segment is not what was written.
pub(crate) const DIFFERENT: u8 = 1;
/// The command line, a setting or an input file cannot be used as it is.
pub(crate) const USAGE: u8 = 2;
/// A log is not the one that was imported under its name.
pub(crate) const OTHER_LOG: u8 = 3;
/// The server cannot be reached, or refuses.
pub(crate) const SERVER: u8 = 4;
/// The data directory or what is on NATS is damaged, or of another deployment.
pub(crate) const DATA: u8 = 5;
/// Another process uses the data, and may end.
pub(crate) const LOCKED: u8 = 6;
/// A file or directory cannot be read or written: permissions, a full disk.
pub(crate) const FILES: u8 = 7;
/// A part of the running process failed for good.
pub(crate) const FATAL: u8 = 70;

/// The exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
   0  done; for import and simulate: everything is accounted for; recount: no difference; facts:
      every object is what was written
   1  import: a row is not accounted for, rejected, or of a time that has not come; simulate: a difference is not explained; recount: there is
      a difference; facts: an object is damaged or missing
   2  the command line, a setting or an input file cannot be used as it is
   3  import: the log is not the one that was imported under its name
   4  the server cannot be reached, or refuses
   5  the data directory is damaged, or of another deployment
   6  another process uses the data directory
   7  a file or directory cannot be read or written: see its permissions, and that the disk has room
  70  up and the roles: a part of the process failed for good (the last line says which and why)";

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// What is wrong, where, and what to do about it, in one line.
    pub(crate) message: String,
    /// Whether another import of the same log has taken over from this one.
    pub(crate) is_taken_over: bool,
}

impl Failure {
    fn new(code: u8, message: impl Display) -> Self {
        Self { code, message: message.to_string(), is_taken_over: false }
    }

    /// The server refuses because another import of the same log has taken over.
    pub(crate) fn taken_over(message: impl Display) -> Self {
        Self { is_taken_over: true, ..Self::server(message) }
    }

    /// See [`DIFFERENT`].
    pub(crate) fn different(message: impl Display) -> Self {
        Self::new(DIFFERENT, message)
    }

    /// See [`USAGE`].
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(USAGE, message)
    }

    /// See [`OTHER_LOG`].
    pub(crate) fn other_log(message: impl Display) -> Self {
        Self::new(OTHER_LOG, message)
    }

    /// See [`SERVER`].
    pub(crate) fn server(message: impl Display) -> Self {
        Self::new(SERVER, message)
    }

    /// See [`DATA`].
    pub(crate) fn data(message: impl Display) -> Self {
        Self::new(DATA, message)
    }

    /// See [`LOCKED`].
    pub(crate) fn locked(message: impl Display) -> Self {
        Self::new(LOCKED, message)
    }

    /// See [`FILES`].
    pub(crate) fn files(message: impl Display) -> Self {
        Self::new(FILES, message)
    }

    /// See [`FATAL`].
    pub(crate) fn fatal(message: impl Display) -> Self {
        Self::new(FATAL, message)
    }
}
