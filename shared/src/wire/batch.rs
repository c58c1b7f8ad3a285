//! The outbox batch: what an edge sends to a collector.
//!
//! Version 3: `CSB3`, edge (16), epoch (8), number (8), watermark in ms (8), number of events (4),
//! number of tallies (4); then each event: kind (1), verdict (1; 0 valid, else the reason), flags
//! (1), codes (4; [`Codes::pack`]), region (3), network (7), fingerprint (8), receive time in ms
//! (8), rule set (4), with 128 in the flags a page view (8) and its number (2), token length (2),
//! token; then each tally: minute (4), kind (1), reason (1), count (4).
//!
//! Version 2, `CSB2`, has the country's letters (2) and the device (1) instead of codes and region.
//! Version 1, `CSB1`, is version 2 without rule set and page view. Both are still read, because
//! outboxes may hold such batches. Version 2 is written where a batch comes as JSON
//! ([`Batch::to_bytes_2`]), version 1 no more.

use super::codec::{put_count, put_reason};
use super::{Declared, WireError, declared};
use crate::bytes::Reader;
use crate::counted::Codes;
use crate::event::{
    Country, Device, Fingerprint, Flags, Kind, Network, PageSeq, PageView, Reason, Region, RuleSet,
    VERDICTS, Verdict,
};
use crate::id::OutboxId;
use crate::limits::{BATCH_EVENTS_MAX, BATCH_NUMBERS_MAX, BATCH_TALLIES_MAX, TOKEN_BYTES_MAX};
use crate::time::{Minute, Timestamp};

const MAGIC: [u8; 4] = *b"CSB3";
const MAGIC_2: [u8; 4] = *b"CSB2";
const MAGIC_1: [u8; 4] = *b"CSB1";
/// Bytes of a batch without events and tallies.
pub const HEADER_BYTES: usize = 52;
/// Bytes of an event without its token and page view.
pub const EVENT_BYTES: usize = 39;
/// The same of an event of version 2.
const EVENT_BYTES_2: usize = 35;
/// The same of an event of version 1.
const EVENT_BYTES_1: usize = 31;
/// Bytes of an event's page view and number.
pub const PAGE_VIEW_BYTES: usize = 10;
/// The error for a network that has none of the known forms.
pub(super) const NO_NETWORK: &str =
    "a network that is no IPv4 /24, IPv6 /48 or hash, padded with zeros";
/// Set in the byte of the flags when a page view follows.
const HAS_PAGE: u8 = 1 << 7;
/// Bytes of a tally.
pub const TALLY_BYTES: usize = 10;

/// The outbox and the number of the batch whose first bytes these are, whatever follows; `None`
/// when they begin like no batch.
#[must_use]
pub fn name_of(bytes: &[u8]) -> Option<(OutboxId, u64)> {
    let mut reader = Reader::new(bytes);
    let magic = reader.array::<4>().ok()?;
    let outbox = OutboxId { edge: reader.id().ok()?, epoch: reader.u64().ok()? };
    let number = reader.u64().ok()?;
    (matches!(magic, MAGIC | MAGIC_2 | MAGIC_1) && number < BATCH_NUMBERS_MAX)
        .then_some((outbox, number))
}

/// One event as the edge saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// What happened.
    pub kind: Kind,
    /// The edge's receive time: stamped when the event was appended to the outbox.
    pub at: Timestamp,
    /// The edge's opinion of the request.
    pub verdict: Verdict,
    /// The rules that the verdict was given by.
    pub rules: RuleSet,
    /// Remarks.
    pub flags: Flags,
    /// Country and class of device.
    pub codes: Codes,
    /// The part of the country.
    pub region: Region,
    /// The visitor's network.
    pub network: Network,
    /// The visitor; [`Fingerprint::NONE`] without consent.
    pub visitor: Fingerprint,
    /// The page view that it came from, if that numbers its events.
    pub page: Option<PageSeq>,
    /// The whole token.
    pub token: &'a [u8],
}

/// Events that are not kept one by one, but only as a number: those that were never authenticated,
/// and those that were lost while the outbox was full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// The UTC minute in which they came.
    pub minute: Minute,
    /// What was asked for.
    pub kind: Kind,
    /// Why it is not counted.
    pub reason: Reason,
    /// How many.
    pub count: u32,
}

/// A numbered batch. It never changes once it is sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch<'a> {
    /// Whose.
    pub outbox: OutboxId,
    /// Its number: from 0, without gaps within an epoch, below [`BATCH_NUMBERS_MAX`].
    pub number: u64,
    /// Every event that this outbox sends later was received at this time or later.
    /// [`Timestamp::MAX`] closes the epoch: nothing follows.
    pub watermark: Timestamp,
    /// At most [`BATCH_EVENTS_MAX`].
    pub events: Vec<Event<'a>>,
    /// At most [`BATCH_TALLIES_MAX`].
    pub tallies: Vec<Tally>,
}

impl<'a> Batch<'a> {
    /// Appends the binary form.
    ///
    /// # Panics
    /// When there are more events or tallies, or a longer token, than [`crate::limits`] allows. An
    /// outbox seals a batch before that.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_with(MAGIC, Event::write, out);
    }

    fn write_with(&self, magic: [u8; 4], put: fn(&Event<'a>, &mut Vec<u8>), out: &mut Vec<u8>) {
        assert!(self.events.len() <= BATCH_EVENTS_MAX && self.tallies.len() <= BATCH_TALLIES_MAX);
        out.extend(magic);
        out.extend(self.outbox.edge.padded());
        out.extend(self.outbox.epoch.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.watermark.0.to_le_bytes());
        put_count(out, self.events.len());
        put_count(out, self.tallies.len());
        self.events.iter().for_each(|event| put(event, out));
        for tally in &self.tallies {
            out.extend(tally.minute.0.to_le_bytes());
            out.extend([tally.kind.code(), tally.reason.code()]);
            out.extend(tally.count.to_le_bytes());
        }
    }

    /// The binary form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let events: usize = self.events.iter().map(Event::bytes).sum();
        let mut out = Vec::with_capacity(HEADER_BYTES + events + self.tallies.len() * TALLY_BYTES);
        self.write(&mut out);
        out
    }

    /// The binary form of version 2; `None` when that cannot say what an event of it says. A batch that
    /// comes again as JSON has this form for as long as it can: its digest
    /// ([`BatchDigest`](crate::BatchDigest)) is then what it was when a build that knew no other form
    /// took it.
    ///
    /// # Panics
    /// As [`Batch::write`].
    #[must_use]
    pub fn to_bytes_2(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let is_said = self.events.iter().all(Event::is_said_before_3);
        is_said.then(|| self.write_with(MAGIC_2, Event::write_2, &mut out)).map(|()| out)
    }

    /// Reads a batch that fills `bytes`.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong and where.
    pub fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let version = match reader.array()? {
            MAGIC => 3,
            MAGIC_2 => 2,
            MAGIC_1 => 1,
            super::bundle::MAGIC => {
                let what =
                    "several batches (CSU1) that are damaged, or stand where one batch should";
                return Err(WireError { what, at: 0 });
            }
            _ => return Err(WireError { what: "no outbox batch of version 1 to 3 (CSB3)", at: 0 }),
        };
        let outbox = OutboxId { edge: reader.id()?, epoch: reader.u64()? };
        let number = reader.u64()?;
        if number >= BATCH_NUMBERS_MAX {
            return Err(reader.error("a batch number of 2^63 or more"));
        }
        let watermark = reader.time()?;
        let least = [EVENT_BYTES_1, EVENT_BYTES_2, EVENT_BYTES][version - 1];
        let events = reader.count(least, BATCH_EVENTS_MAX)?;
        let tallies = reader.count(TALLY_BYTES, BATCH_TALLIES_MAX)?;
        let events = (0..events).map(|_| Event::read(&mut reader, version));
        let events = events.collect::<Result<_, _>>()?;
        let tallies = (0..tallies).map(|_| Tally::read(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { outbox, number, watermark, events, tallies })
    }

    /// How many events it brings, by the minute of their receipt: what counts as received.
    #[must_use]
    pub fn declared(&self) -> Declared {
        let events = self.events.iter().map(|event| (event.at.minute(), 1));
        declared(events.chain(self.tallies.iter().map(|tally| (tally.minute, tally.count))))
    }
}

impl<'a> Event<'a> {
    /// How many bytes it has in a batch.
    #[must_use]
    pub fn bytes(&self) -> usize {
        EVENT_BYTES + self.page.map_or(0, |_| PAGE_VIEW_BYTES) + self.token.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.write_with(out, |out| {
            out.extend(self.codes.pack().to_le_bytes());
            out.extend(self.region.bytes());
        });
    }

    fn write_2(&self, out: &mut Vec<u8>) {
        self.write_with(out, |out| {
            out.extend(self.codes.country.bytes());
            out.push(self.codes.device.code());
        });
    }

    fn is_said_before_3(&self) -> bool {
        let Codes { country, device, .. } = self.codes;
        self.codes == Codes::new(country, device) && self.region == Region::UNKNOWN
    }

    fn write_with(&self, out: &mut Vec<u8>, put_seen: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.token.len() <= TOKEN_BYTES_MAX, "no token is longer");
        out.push(self.kind.code());
        put_reason(out, self.verdict);
        out.push(self.flags.0 | self.page.map_or(0, |_| HAS_PAGE));
        put_seen(out);
        out.extend(self.network.0);
        out.extend(self.visitor.0.to_le_bytes());
        out.extend(self.at.0.to_le_bytes());
        out.extend(self.rules.0.to_le_bytes());
        if let Some(PageSeq { page, seq }) = self.page {
            out.extend(page.0.to_le_bytes());
            out.extend(seq.to_le_bytes());
        }
        let length = u16::try_from(self.token.len()).expect("asserted above");
        out.extend(length.to_le_bytes());
        out.extend(self.token);
    }

    fn read(reader: &mut Reader<'a>, version: usize) -> Result<Self, WireError> {
        let kind = reader.kind()?;
        let verdict = reader.reason()?;
        if verdict.is_some_and(|reason| !VERDICTS.contains(&reason)) {
            return Err(reader.error("a reason that is no verdict of an edge"));
        }
        let byte = reader.u8()?;
        let has_page = version > 1 && byte & HAS_PAGE != 0;
        let flags = Flags(if has_page { byte & !HAS_PAGE } else { byte });
        if flags.0 & !Flags::KNOWN != 0 {
            return Err(reader.error("an unknown flag"));
        }
        let (codes, region) = if version > 2 { seen(reader)? } else { seen_before_3(reader)? };
        let network = Network(reader.array()?);
        if !network.is_canonical() {
            return Err(reader.error(NO_NETWORK));
        }
        let visitor = Fingerprint(reader.u64()?);
        let at = reader.time()?;
        let rules = RuleSet(if version > 1 { reader.u32()? } else { 0 });
        let page = if has_page { Some(page(reader)?) } else { None };
        let length = usize::from(reader.u16()?);
        if length > TOKEN_BYTES_MAX {
            return Err(reader.error("a token longer than any"));
        }
        let token = reader.slice(length)?;
        let event =
            Self { kind, at, verdict, rules, flags, codes, region, network, visitor, page, token };
        Ok(event)
    }
}

fn seen(reader: &mut Reader<'_>) -> Result<(Codes, Region), WireError> {
    let codes = Codes::unpack(reader.u32()?);
    let codes =
        codes.ok_or_else(|| reader.error("a country, device or other code without a meaning"))?;
    let region = Region::from_bytes(reader.array()?);
    let region =
        region.ok_or_else(|| reader.error("a region of other than capitals and digits"))?;
    Ok((codes, region))
}

fn seen_before_3(reader: &mut Reader<'_>) -> Result<(Codes, Region), WireError> {
    let country = Country::from_bytes(reader.array()?)
        .ok_or_else(|| reader.error("a country of other than capital letters"))?;
    let device = Device::from_code(reader.u8()?)
        .ok_or_else(|| reader.error("an unknown class of device"))?;
    // Versions before 3 have no other codes, and no region.
    Ok((Codes::new(country, device), Region::UNKNOWN))
}

fn page(reader: &mut Reader<'_>) -> Result<PageSeq, WireError> {
    let page = PageSeq { page: PageView(reader.u64()?), seq: reader.u16()? };
    if page.is_good() { Ok(page) } else { Err(reader.error("a number that no page may give")) }
}

impl Tally {
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let minute = reader.minute()?;
        let kind = reader.kind()?;
        let reason = reader.reason()?.ok_or_else(|| reader.error("a tally without a reason"))?;
        Ok(Self { minute, kind, reason, count: reader.u32()? })
    }
}
