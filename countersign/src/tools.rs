//! The commands that do something and end: [`import`], [`simulate`] and [`recount`] work through an
//! API or files, [`backup`] copies a data directory, [`facts`] mends segments; [`keys`], [`catalogue`], [`operate`] and
//! [`deadletter`] are for the operator's daily work.

pub(crate) mod backup;
pub(crate) mod catalogue;
pub(crate) mod deadletter;
pub(crate) mod facts;
pub(crate) mod import;
pub(crate) mod keys;
pub(crate) mod operate;
pub(crate) mod recount;
pub(crate) mod simulate;
