//! The JSON form of a batch: for third parties that send events from a server, and for people who
//! want to see what is in a batch. It has the same content as the binary form. Unknown fields are
//! refused.

use serde::{Deserialize, Serialize};

use super::batch::{Batch, Event, NO_NETWORK, Tally};
use crate::counted::Codes;
use crate::event::{
    Fingerprint, Flags, Kind, Network, PageSeq, Region, RuleSet, VERDICTS, Verdict,
};
use crate::id::OutboxId;
use crate::limits::{BATCH_EVENTS_MAX, BATCH_NUMBERS_MAX, BATCH_TALLIES_MAX};
use crate::name::EdgeId;
use crate::time::Timestamp;
use crate::token;

/// A batch as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonBatch {
    /// The version of the form: 1.
    pub version: u32,
    /// The edge.
    pub edge: EdgeId,
    /// Its epoch.
    pub epoch: u64,
    /// The batch's number.
    pub number: u64,
    /// Its watermark, ms since 1970; `null` closes the epoch.
    pub watermark: Option<Timestamp>,
    /// The events.
    #[serde(default)]
    pub events: Vec<JsonEvent>,
    /// The tallies.
    #[serde(default)]
    pub tallies: Vec<Tally>,
}

macro_rules! json_event {
    (names $names:tt codes { $($(#[$doc:meta])* $code:ident: $type:ty, $bits:literal,)+ }) => {
        /// An event as JSON.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct JsonEvent {
            /// What happened.
            pub kind: Kind,
            /// When, ms since 1970.
            pub at: Timestamp,
            /// The token: base64url bytes, decoded here.
            #[serde(with = "token_text")]
            pub token: Vec<u8>,
            /// The reason why the event is not valid, if it is not.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub verdict: Verdict,
            /// The rules that the verdict was given by, eight hexadecimal digits; left out: not
            /// known.
            #[serde(default, skip_serializing_if = "is_default")]
            pub rules: RuleSet,
            /// The page view that it came from, if that numbers its events.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub page: Option<PageSeq>,
            $($(#[$doc])* #[serde(default)] pub $code: $type,)+
            /// The part of the country (ISO 3166-2, behind the country's own letters); left out:
            /// not known.
            #[serde(default, skip_serializing_if = "is_default")]
            pub region: Region,
            /// The visitor's network.
            #[serde(default)]
            pub network: Network,
            /// The visitor, as hexadecimal digits: 64 bits do not fit into JavaScript's numbers,
            /// which have 53. Without consent they are zeros, or left out.
            #[serde(default)]
            pub visitor: Fingerprint,
            /// Remarks.
            #[serde(default)]
            pub flags: Flags,
        }

        impl JsonEvent {
            fn new(event: &Event<'_>) -> Self {
                let Event { kind, at, verdict, rules, flags, codes, region, network, visitor, page, token } =
                    *event;
                let token = token.to_vec();
                let Codes { $($code,)+ } = codes;
                Self { kind, at, token, verdict, rules, page, $($code,)+ region, network, visitor, flags }
            }

            fn event(&self) -> Event<'_> {
                let Self { kind, at, verdict, rules, flags, region, network, visitor, page, .. } = *self;
                let codes = Codes { $($code: self.$code,)+ };
                let token = self.token.as_slice();
                Event { kind, at, verdict, rules, flags, codes, region, network, visitor, page, token }
            }
        }
    };
}

crate::dimensions!(json_event);

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl JsonBatch {
    /// The JSON form of a batch.
    #[must_use]
    pub fn new(batch: &Batch<'_>) -> Self {
        Self {
            version: 1,
            edge: batch.outbox.edge,
            epoch: batch.outbox.epoch,
            number: batch.number,
            watermark: Some(batch.watermark).filter(|at| *at != Timestamp::MAX),
            events: batch.events.iter().map(JsonEvent::new).collect(),
            tallies: batch.tallies.clone(),
        }
    }

    /// Makes the batch.
    ///
    /// # Errors
    /// Says which bound or value is wrong.
    pub fn batch(&self) -> Result<Batch<'_>, String> {
        if self.version != 1 {
            return Err(format!("version {}: this build reads version 1", self.version));
        }
        if self.number >= BATCH_NUMBERS_MAX {
            return Err("number: below 2^63".to_owned());
        }
        if self.events.len() > BATCH_EVENTS_MAX || self.tallies.len() > BATCH_TALLIES_MAX {
            return Err(format!("a batch has at most {BATCH_EVENTS_MAX} events and tallies each"));
        }
        for (at, event) in self.events.iter().enumerate() {
            event.check().map_err(|what| format!("events[{at}]: {what}"))?;
        }
        Ok(Batch {
            outbox: OutboxId { edge: self.edge, epoch: self.epoch },
            number: self.number,
            watermark: self.watermark.unwrap_or(Timestamp::MAX),
            events: self.events.iter().map(JsonEvent::event).collect(),
            tallies: self.tallies.clone(),
        })
    }
}

impl JsonEvent {
    fn check(&self) -> Result<(), &'static str> {
        if self.verdict.is_some_and(|reason| !VERDICTS.contains(&reason)) {
            return Err("this reason is no verdict of an edge");
        }
        if self.flags.0 & !Flags::KNOWN != 0 {
            return Err("an unknown flag");
        }
        if !self.network.is_canonical() {
            return Err(NO_NETWORK);
        }
        if self.page.is_some_and(|page| !page.is_good()) {
            return Err("a number that no page may give");
        }
        if self.token.len() > crate::limits::TOKEN_BYTES_MAX {
            return Err("a token longer than any");
        }
        Ok(())
    }
}

mod token_text {
    use super::token;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&token::to_text(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        token::from_text(text.as_bytes())
            .map_err(|_| D::Error::custom("a token is canonical base64url without padding"))
    }
}
