//! The parts that `up` and the roles are made of. [`parts`] opens an edge, a collector, an
//! aggregator from the settings, [`counting`] all of whoever counts, [`log`] the log between them, [`archiving`] the log as files,
//! [`objects`] object stores by URL. [`listen`] serves the API, [`descriptors`] divides the
//! connections between the API and the edge, [`guard`] guards and completes the API's routes,
//! [`published`] tells edges elsewhere their keys and catalogue; [`disk`] watches the room on the
//! data directory's disk.

pub(crate) mod archiving;
pub(crate) mod counting;
pub(crate) mod descriptors;
pub(crate) mod disk;
pub(crate) mod guard;
pub(crate) mod listen;
pub(crate) mod log;
pub(crate) mod objects;
pub(crate) mod parts;
pub(crate) mod published;
