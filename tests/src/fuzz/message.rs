//! A message that is read in place says the same as a plain reader finds in it, and both refuse the
//! same messages.

use std::collections::BTreeSet;

use shared::name::Any;
use shared::wire::message::Entry;
use shared::wire::{Cold, Judged, MessageBuilder, MessageView, Row};
use shared::{
    BlockId, Codes, Country, Device, Fingerprint, Flags, Id, ImpressionId, Kind, Money, Name,
    NameBuf, Network, PageSeq, PageView, Reason, Region, RuleSet, Timestamp,
};

use super::{Outcome, batch, hold};

pub(super) fn judge(input: &[u8]) -> Outcome {
    let plain = Plain::read(input);
    let view = match MessageView::read(input) {
        Ok(view) => view,
        Err(error) => {
            hold(plain.is_none(), || format!("refused, and there is nothing wrong: {error}"))?;
            return batch::refused(&error, input);
        }
    };
    let Some(plain) = plain else {
        return Err("read, and it should be refused".to_owned());
    };
    hold(view.rows().len() == plain.hot.len(), || "another number of rows".to_owned())?;
    for (row, hot) in view.rows().zip(&plain.hot) {
        same_row(&view, &row, hot)?;
    }
    let cold = match view.cold() {
        Ok(cold) => cold,
        Err(error) => {
            return Ok(format!("read; cold part {}", batch::refused(&error, plain.cold)?));
        }
    };
    hold(cold.len() == plain.hot.len(), || "another number of cold rows".to_owned())?;
    rebuilt(&view, &cold)?;
    Ok(format!(
        "read{}{}{}",
        if view.entries() == 0 { " without entries" } else { "" },
        if view.tallies.is_empty() { "" } else { " with tallies" },
        if cold.is_empty() { "" } else { " with events" },
    ))
}

/// The fixed parts of a message, read as the table in `wire/message.rs` describes them.
struct Plain<'a> {
    hot: Vec<Hot<'a>>,
    cold: &'a [u8],
}

/// The parts of an event that every version has.
struct Hot<'a> {
    /// Entry, block, sequence, minute, ad, publisher, price.
    words: [u16; 7],
    country: u16,
    device: u8,
    kind: u8,
    numbered: bool,
    verdict: u8,
    rejected: u8,
    /// Since version 4: the whole row.
    row: Option<&'a [u8]>,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, length: usize) -> Option<u64> {
        let bytes = self.take(length)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// A list; more than `most` are refused, and one of its items makes all of it bad.
    fn list<T>(
        &mut self,
        most: u64,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.number(4).filter(|count| *count <= most)?;
        (0..count).map(|_| item(self)).collect()
    }

    /// The id of an edge or an issuer; before version 4, of anything.
    fn short_id(&mut self) -> Option<&'a [u8]> {
        let bytes = self.take(16)?;
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(16);
        let (id, padding) = bytes.split_at(length);
        let good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let canonical = padding.iter().all(|byte| *byte == 0);
        (!id.is_empty() && id.iter().all(good) && canonical).then_some(bytes)
    }

    /// An id of any kind. With the first bit set it is a digest.
    fn id(&mut self, version: u64) -> Option<&'a [u8]> {
        match self.0.first()? {
            0x80.. if version > 3 => self.take(16),
            _ => self.short_id(),
        }
    }

    /// Reads the names: each digest must have one, and no other id.
    fn names(&mut self, ids: &[&[u8]]) -> Option<()> {
        let mut named = BTreeSet::new();
        self.list(65_535, |r| {
            let (number, length) = (r.number(2)? as usize, r.number(1)? as usize);
            let name: Name<'_, Any> = Name::new(std::str::from_utf8(r.take(length)?).ok()?).ok()?;
            let id = ids.get(number.checked_sub(1)?)?;
            (id[0] > 0x7f && name.id().padded() == id && named.insert(number)).then_some(())
        })?;
        (named.len() == ids.iter().filter(|id| id[0] > 0x7f).count()).then_some(())
    }

    fn declared(&mut self) -> Option<()> {
        let minutes = self.list(65_535, |r| {
            let minute = r.number(4);
            r.number(4)?;
            minute
        })?;
        minutes.is_sorted_by(|a, b| a < b).then_some(())
    }
}

impl<'a> Plain<'a> {
    fn read(input: &'a [u8]) -> Option<Self> {
        let mut r = Bytes(input);
        let version = match r.take(4)? {
            b"CSM1" => 1,
            b"CSM2" => 2,
            b"CSM3" => 3,
            b"CSM4" => 4,
            _ => return None,
        };
        r.take(2 + 8)?;
        let batches = r.list(4_096, |r| {
            r.short_id()?;
            r.take(8 + 8 + 8 + if version > 2 { 16 } else { 0 })?;
            r.declared()
        })?;
        let chunks = r.list(4_096, |r| {
            r.take(16)?;
            let (first, end) = (r.number(8)?, r.number(8)?);
            r.take(32)?;
            r.declared()?;
            (first <= end).then_some(())
        })?;
        let entries = (batches.len() + chunks.len()) as u64;
        r.list(65_535, |r| {
            let entry = r.number(2)?;
            r.take(4)?;
            let (kind, reason) = (r.number(1)?, r.number(1)?);
            r.take(4)?;
            let good = entry < entries && kind < 4 && reason_code(reason) && reason > 0;
            good.then_some(())
        })?;
        let blocks = r.list(65_534, |r| {
            r.short_id()?;
            r.take(10)
        })?;
        let minutes = r.list(65_535, |r| r.take(4))?;
        let ids = r.list(65_534, |r| r.id(version))?;
        if version > 3 {
            r.names(&ids)?;
        }
        let prices = r.list(65_534, |r| {
            let (currency, micros) = (r.take(3)?, r.number(8)?);
            let named = currency.iter().all(u8::is_ascii_uppercase);
            (named || currency == [0; 3] && micros == 0).then_some(())
        })?;
        if version > 1 {
            let within = |number: Option<u64>, end: usize| number.is_some_and(|n| n < end as u64);
            r.list(65_535, |r| {
                let points = within(r.number(2), entries as usize)
                    & within(r.number(2), minutes.len())
                    & within(r.number(2), ids.len() + 1);
                let seq = r.number(2)?;
                r.take(8)?;
                (points && (1..=4_096).contains(&seq)).then_some(())
            })?;
        }
        let ends = Ends {
            entries: entries as usize,
            blocks: blocks.len() + 1,
            minutes: minutes.len(),
            ids: ids.len() + 1,
            prices: prices.len() + 1,
        };
        let hot =
            r.list(65_535, |r| if version > 3 { ends.hot(r) } else { ends.hot_3(r, version) })?;
        let length = r.number(4)?;
        let cold = r.take(usize::try_from(length).ok()?)?;
        let least = match version {
            1 => 26,
            2 | 3 => 30,
            _ => 11,
        };
        (r.0.is_empty() && cold.len() >= hot.len() * least).then_some(Self { hot, cold })
    }
}

/// The lengths of the tables that rows point into.
struct Ends {
    entries: usize,
    blocks: usize,
    minutes: usize,
    ids: usize,
    prices: usize,
}

impl Ends {
    fn hot<'a>(&self, r: &mut Bytes<'a>) -> Option<Hot<'a>> {
        let row = r.take(44)?;
        let word = |at: usize| u16::from_le_bytes([row[at], row[at + 1]]);
        let packed = u32::from_le_bytes([row[16], row[17], row[18], row[19]]);
        let hot = Hot {
            words: [word(0), word(2), word(4), word(6), word(8), word(10), word(14)],
            country: (packed >> 7 & 0x3ff) as u16,
            device: (packed >> 4 & 7) as u8,
            kind: (packed >> 1 & 7) as u8,
            numbered: row[20] > 0x7f,
            verdict: row[20] & 0x7f,
            rejected: row[21],
            row: Some(row),
        };
        let valid = hot.verdict == 0 && hot.rejected == 0;
        let length = row[26..29].iter().position(|byte| *byte == 0).unwrap_or(3);
        let (region, padding) = row[26..29].split_at(length);
        let good = self.hold(&hot)
            && usize::from(word(12)) < self.ids
            && packed >> 17 == 0
            && packed & 1 == u32::from(valid)
            && word(22) < 60_000
            && region.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            && padding.iter().all(|byte| *byte == 0);
        good.then_some(hot)
    }

    fn hot_3<'a>(&self, r: &mut Bytes<'a>, version: u64) -> Option<Hot<'a>> {
        let row = r.take(20)?;
        let word = |at: usize| u16::from_le_bytes([row[at], row[at + 1]]);
        let hot = Hot {
            words: [word(0), word(2), word(4), word(6), word(8), word(10), word(14)],
            country: word(12),
            device: row[17],
            kind: if version > 1 { row[16] & 0x7f } else { row[16] },
            numbered: row[16] > 0x7f,
            verdict: row[18],
            rejected: row[19],
            row: None,
        };
        self.hold(&hot).then_some(hot)
    }

    fn hold(&self, hot: &Hot<'_>) -> bool {
        let [entry, block, _, minute, ad, publisher, price] = hot.words.map(usize::from);
        entry < self.entries
            && block < self.blocks
            && minute < self.minutes
            && ad < self.ids
            && publisher < self.ids
            && price < self.prices
            && hot.country < 26 * 26
            && hot.device < 5
            && hot.kind < 4
            && reason_code(u64::from(hot.verdict))
            && reason_code(u64::from(hot.rejected))
    }
}

fn reason_code(code: u64) -> bool {
    code == 0 || Reason::ALL.iter().any(|reason| u64::from(reason.code()) == code)
}

fn same_row(view: &MessageView<'_>, row: &Row, hot: &Hot<'_>) -> Result<(), String> {
    let words = [row.entry, row.block, row.seq, row.minute, row.ad, row.publisher, row.price];
    hold(words == hot.words, || "another row".to_owned())?;
    let Codes { country, device } = row.codes();
    let codes = (country.index(), device.code(), row.kind().code(), row.numbered);
    let should = (hot.country, hot.device, hot.kind, hot.numbered);
    hold(codes == should, || "another country, device or kind".to_owned())?;
    let outcome = match (hot.verdict, hot.rejected) {
        (verdict, 0) => Ok(Reason::from_code(verdict)),
        (_, rejected) => Err(Reason::from_code(rejected).ok_or("a reason without a name")?),
    };
    hold(row.outcome == outcome, || "another outcome".to_owned())?;
    if let Some(bytes) = hot.row {
        let mut said = Vec::new();
        said.extend(row.ms.to_le_bytes());
        said.extend(
            age(view, row).unwrap_or(i16::from_le_bytes([bytes[24], bytes[25]])).to_le_bytes(),
        );
        said.extend(row.region.bytes());
        said.extend(row.network.0);
        said.extend(row.visitor.0.to_le_bytes());
        hold(said == bytes[22..], || "another rest of a row".to_owned())?;
        let placement = u16::from_le_bytes([bytes[12], bytes[13]]);
        hold(row.placement == placement, || "another placement".to_owned())?;
    }
    // The tables are read with a first entry that stands for none.
    hold(view.ids[0].is_none() && view.blocks[0].0.is_none(), || "0 is not none".to_owned())
}

/// Minutes since the issue; `None` when that is not known, or before 1970.
fn age(view: &MessageView<'_>, row: &Row) -> Option<i16> {
    let minute = view.minutes[usize::from(row.minute)];
    let issued = row.issued(minute)?;
    i16::try_from(i64::from(minute.0) - i64::from(issued.0)).ok()
}

/// A message that is built again from its content says the same, and building it once more gives
/// the same bytes.
fn rebuilt(view: &MessageView<'_>, cold: &[Cold<'_>]) -> Result<(), String> {
    let once = build(view, cold);
    let view_again = MessageView::read(&once).map_err(|e| format!("built again: {e}"))?;
    let cold_again = view_again.cold().map_err(|e| format!("built again, cold: {e}"))?;
    hold(said(view, cold) == said(&view_again, &cold_again), || {
        "built again it says something else".to_owned()
    })?;
    hold(build(&view_again, &cold_again) == once, || "built twice it differs".to_owned())
}

fn build(view: &MessageView<'_>, cold: &[Cold<'_>]) -> Vec<u8> {
    let mut builder = MessageBuilder::default();
    let mut entries: Vec<Entry> = view.batches.iter().map(|b| builder.batch(b.clone())).collect();
    entries.extend(view.chunks.iter().map(|chunk| builder.chunk(chunk.clone())));
    for tally in &view.tallies {
        builder.tally(entries[usize::from(tally.entry)], tally.tally);
    }
    for page in &view.page_views {
        let names = names(view, &[page.publisher]);
        let event = Judged {
            at: view.minutes[usize::from(page.minute)].start(),
            publisher: view.ids[usize::from(page.publisher)].cast(),
            names: &names,
            ..NOTHING
        };
        builder.page_view(entries[usize::from(page.entry)], &event, page.told);
    }
    for (row, cold) in view.rows().zip(cold) {
        let names = names_of(view, &row, cold);
        builder.event(entries[usize::from(row.entry)], &judged(view, &row, cold, &names));
    }
    builder.finish(view.partition, view.stamp)
}

/// The names of those of these ids that are digests.
fn names(view: &MessageView<'_>, ids: &[u16]) -> Vec<NameBuf<Any>> {
    let digests = ids.iter().filter(|id| view.ids[usize::from(**id)].is_digest());
    digests.map(|id| view.name(*id).to_buf()).collect()
}

fn names_of(view: &MessageView<'_>, row: &Row, cold: &Cold<'_>) -> Vec<NameBuf<Any>> {
    names(view, &[row.ad, cold.campaign, cold.advertiser, row.publisher, row.placement])
}

const NOTHING: Judged<'static> = Judged {
    issuer: Id::NONE,
    id: ImpressionId { block: BlockId([0; 10]), seq: 0 },
    kind: Kind::Served,
    outcome: Ok(None),
    at: Timestamp(0),
    issued: None,
    ad: Id::NONE,
    campaign: Id::NONE,
    advertiser: Id::NONE,
    publisher: Id::NONE,
    placement: Id::NONE,
    names: &[],
    codes: Codes { country: Country::UNKNOWN, device: Device::Unknown },
    region: Region::UNKNOWN,
    network: Network([0; 7]),
    visitor: Fingerprint::NONE,
    flags: Flags(0),
    rules: RuleSet::UNKNOWN,
    page: None,
    price: Money::ZERO,
    proof: &[],
};

fn judged<'a>(
    view: &MessageView<'_>,
    row: &Row,
    cold: &Cold<'a>,
    names: &'a [NameBuf<Any>],
) -> Judged<'a> {
    let id = |number: u16| view.ids[usize::from(number)];
    let (issuer, block) = view.blocks[usize::from(row.block)];
    let price = view.prices[usize::from(row.price)];
    let minute = view.minutes[usize::from(row.minute)];
    Judged {
        issuer,
        id: ImpressionId { block, seq: row.seq },
        kind: row.kind(),
        outcome: row.outcome,
        at: minute.start().plus_ms(u64::from(row.ms)),
        issued: row.issued(minute),
        ad: id(row.ad).cast(),
        campaign: id(cold.campaign).cast(),
        advertiser: id(cold.advertiser).cast(),
        publisher: id(row.publisher).cast(),
        placement: id(row.placement).cast(),
        names,
        codes: row.codes(),
        region: row.region,
        network: row.network,
        visitor: row.visitor,
        flags: cold.flags,
        rules: cold.rules,
        // The page view itself is in the message of another partition; here it matters only that
        // there is one.
        page: row.numbered.then_some(PageSeq { page: PageView(0), seq: 1 }),
        // An amount of nothing has no currency once it is written.
        price: if price.micros == 0 { Money::ZERO } else { price },
        proof: cold.proof,
    }
}

/// Everything that a message says, except positions in its tables.
fn said(view: &MessageView<'_>, cold: &[Cold<'_>]) -> Vec<String> {
    let rows = view.rows().zip(cold);
    let rows = rows.map(|(row, cold)| {
        let names = names_of(view, &row, cold);
        format!("{} {:?}", row.entry, judged(view, &row, cold, &names))
    });
    let pages = view.page_views.iter().map(|page| {
        let (minute, publisher) = (usize::from(page.minute), usize::from(page.publisher));
        let (minute, publisher) = (view.minutes[minute], view.ids[publisher]);
        let publisher = (publisher, view.name(page.publisher));
        format!("{} {minute:?} {publisher:?} {:?}", page.entry, page.told)
    });
    rows.chain(pages).collect()
}
