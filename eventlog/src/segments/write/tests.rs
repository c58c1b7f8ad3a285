use std::io::ErrorKind;
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Write { upto: usize, kind: ErrorKind },
    Sync,
}
