//! `import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ApiArgs;

fn unless_dry_run(arg: clap::Arg) -> clap::Arg {
    if !["api", "key"].contains(&arg.get_id().as_str()) {
        return arg;
    }
    let arg = arg.required(false).required_unless_present("dry_run");
    arg.default_value_if("dry_run", "true", "")
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (ours, theirs) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((ours.trim().to_owned(), theirs.trim().to_owned()))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(*byte),
        _ => Err("write one ASCII character, or `tab`".to_owned()),
    }
}

/// The form of a log.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Comma-separated values with a header line (RFC 4180)
    Csv,
    /// Tab-separated values with a header line
    Tsv,
    /// One JSON object a line
    Ndjson,
    /// A web server's access log in the common or combined form (nginx, Apache)
    Access,
    /// A web server's log in W3C's extended form (IIS, CloudFront)
    W3c,
}

/// Counts the events of log files, each exactly once, however often they are imported.
///
/// Columns are found by name, in any order: `ad_id`; `timestamp` or `click_timestamp` (RFC 3339 or
/// Unix seconds); and, where there are, `event` (served, impression, viewable, click), `click`,
/// `user_id`, `ip`, `country`, `publisher`, `placement`, `device`. A row without `event` and
/// `click` is a click. A row with `click` is an impression, and a click too when it is 1. Rows that
/// cannot be read, or are of a time before 1994 or more than a day ahead, are rejected; rows of the
/// next hours wait for another import. docs/import.md has all of it.
///
/// A file without --source is known by how it begins, up to the end of its first row; with --source by that
/// name. It may grow: the next import checks that it still begins with the rows that were taken, and counts
/// those that follow. A last line without a newline may be half written: with --source and with --follow it
/// waits for the next import, unless --complete says that it is whole. Rejected rows are written to a file;
/// mended there, or in a copy of it, they are imported from it, each counted once.
#[derive(Args, Debug)]
#[command(mut_args(unless_dry_run))]
pub(crate) struct ImportArgs {
    /// Log files, or directories of such: CSV, TSV or NDJSON, plain, gzip, zstd, xz or bzip2; `-` is the
    /// standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Address of the collector's gateway [default: as --api: `up` is both]
    #[arg(long, value_name = "URL")]
    pub(crate) collector: Option<String>,
    /// The log's name; it may then grow. One file only
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// The form, when neither the file's ending nor its first line tells
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// What separates the fields of CSV or TSV: one character, or `tab` [default: as the header tells:
    /// comma, semicolon, tab or bar]
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    pub(crate) delimiter: Option<u8>,
    /// The log's own names of columns, as in ad_id=creative,timestamp=hour
    #[arg(long, value_name = "OURS=THEIRS", value_delimiter = ',', value_parser = pair)]
    pub(crate) map: Vec<(String, String)>,
    /// What holds where a row says nothing, as in publisher=news; may be repeated
    #[arg(long, value_name = "OURS=VALUE", value_parser = pair)]
    pub(crate) default: Vec<(String, String)>,
    /// The form of its times where it is none of ours, as strptime has it: %d/%b/%Y:%H:%M:%S %z
    #[arg(long, value_name = "FORMAT")]
    pub(crate) time_format: Option<String>,
    /// The zone of times without an offset: Europe/Berlin, +09:00 [default: UTC]
    #[arg(long, value_name = "ZONE", allow_hyphen_values = true)]
    pub(crate) tz: Option<String>,
    /// Of an access log, the requests that are events, with the columns' values in them, as in
    /// '/click/{ad_id}' or 'impression=/pixel?ad={ad_id}&pub={publisher}'; `*` is anything; may be repeated
    #[arg(long, value_name = "[EVENT=]PATH")]
    pub(crate) request: Vec<String>,
    /// Go on with what is written to the log, and with the next one when it is rotated, until Ctrl-C
    #[arg(long, conflicts_with_all = ["strict", "dry_run", "complete"])]
    pub(crate) follow: bool,
    /// Send nothing of a log in which a row would be rejected, or counted without its network, country or
    /// device
    #[arg(long)]
    pub(crate) strict: bool,
    /// Show how the log would be read, and send nothing: no API is asked
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where rows that cannot be read are written, with file, line and reason
    /// [default: FILE.rejects]
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
    /// With --source: take a last line that has no newline
    #[arg(long, requires = "source")]
    pub(crate) complete: bool,
}
