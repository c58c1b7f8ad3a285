//! The promise on the wire: everything that an edge, a collector, an aggregator and a browser must
//! agree on, and nothing else. Values in, values out: no clock, no randomness, no I/O (the one
//! exception, [`ambient`], wraps the machine's for the rims and is absent from Wasm).

#[cfg(not(target_arch = "wasm32"))]
pub mod ambient;
pub mod bytes;
pub mod clock;
pub mod counted;
#[cfg(not(target_arch = "wasm32"))]
mod country;
pub mod event;
pub mod id;
pub mod import;
pub mod keys;
pub mod limits;
pub mod money;
pub mod name;
pub mod partition;
pub mod problem;
pub mod random;
pub mod ready;
pub mod text;
pub mod time;
pub mod token;
pub mod wire;

pub use counted::{Codes, Dimensions};
pub use event::{
    Country, Device, Fingerprint, Flags, Kind, Network, Outcome, PageSeq, PageView, Reason, Region,
    RuleSet, Validity, Verdict,
};
pub use id::{BatchDigest, BlockId, ImpressionId, OutboxId, SourceId};
pub use money::{Currency, Money};
pub use name::{
    AdId, AdName, AdvertiserId, AdvertiserName, AnyId, CampaignId, CampaignName, EdgeId, Id,
    IssuerId, Name, NameBuf, NameError, PlacementId, PlacementName, PublisherId, PublisherName,
};
pub use partition::{PartitionMap, Partitions};
pub use random::Random;
pub use ready::Ready;
pub use time::{Clock, Minute, TimeError, Timestamp};
