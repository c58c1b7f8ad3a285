//! What `up` and the roles are put together of. [`parts`] opens an edge, a collector, an aggregator from the
//! settings, [`log`] the log between them, [`archiving`] the log as files, [`objects`] object stores by URL.
//! [`listen`] serves the API, [`descriptors`] is what it shares with the edge, [`guard`] guards and completes its
//! routes, [`published`] is what edges elsewhere are told; [`disk`] watches the data directory's room.

pub(crate) mod archiving;
pub(crate) mod descriptors;
pub(crate) mod disk;
pub(crate) mod guard;
pub(crate) mod listen;
pub(crate) mod log;
pub(crate) mod objects;
pub(crate) mod parts;
pub(crate) mod published;
