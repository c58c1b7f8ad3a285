//! A message that is read in place says what a plain reader makes of it, and both refuse the same.

use shared::event::Country;
use shared::wire::message::Entry;
use shared::wire::{Cold, Judged, MessageBuilder, MessageView, Row};
use shared::{ImpressionId, Money, PageSeq, PageView, Reason};

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

/// What the bytes say of the fixed parts, read as the table in `wire/message.rs` tells.
struct Plain<'a> {
    hot: Vec<&'a [u8]>,
    cold: &'a [u8],
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

    fn id(&mut self) -> Option<()> {
        let bytes = self.take(16)?;
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(16);
        let (id, padding) = bytes.split_at(length);
        let good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let canonical = padding.iter().all(|byte| *byte == 0);
        (!id.is_empty() && id.iter().all(good) && canonical).then_some(())
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
            _ => return None,
        };
        r.take(2 + 8)?;
        let batches = r.list(4_096, |r| {
            r.id()?;
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
            r.id()?;
            r.take(10)
        })?;
        let minutes = r.list(65_535, |r| r.take(4))?;
        let ids = r.list(65_534, Bytes::id)?;
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
        let numbered = [
            (0, entries as usize),
            (2, blocks.len() + 1),
            (6, minutes.len()),
            (8, ids.len() + 1),
            (10, ids.len() + 1),
            (12, 26 * 26),
            (14, prices.len() + 1),
        ];
        let hot = r.list(65_535, |r| {
            let row = r.take(20)?;
            let within = |(at, end)| usize::from(u16::from_le_bytes([row[at], row[at + 1]])) < end;
            let kind = if version > 1 { row[16] & 0x7f } else { row[16] };
            let codes = kind < 4
                && row[17] < 5
                && reason_code(u64::from(row[18]))
                && reason_code(u64::from(row[19]));
            (numbered.into_iter().all(within) && codes).then_some(row)
        })?;
        let length = r.number(4)?;
        let cold = r.take(usize::try_from(length).ok()?)?;
        (r.0.is_empty() && cold.len() >= hot.len() * if version > 1 { 30 } else { 26 })
            .then_some(Self { hot, cold })
    }
}

fn reason_code(code: u64) -> bool {
    code == 0 || Reason::ALL.iter().any(|reason| u64::from(reason.code()) == code)
}

fn same_row(view: &MessageView<'_>, row: &Row, hot: &[u8]) -> Result<(), String> {
    let word = |at: usize| u16::from_le_bytes([hot[at], hot[at + 1]]);
    let words =
        [row.entry, row.block, row.seq, row.minute, row.ad, row.publisher, row.country, row.price];
    let mut should = (0..8).map(|at| word(2 * at));
    hold(words.iter().all(|word| should.next() == Some(*word)), || "another row".to_owned())?;
    let codes = [row.kind.code() | u8::from(row.numbered) << 7, row.device.code()];
    hold(codes == hot[16..18], || "another kind or device".to_owned())?;
    let outcome = match (hot[18], hot[19]) {
        (verdict, 0) => Ok(Reason::from_code(verdict)),
        (_, rejected) => Err(Reason::from_code(rejected).ok_or("a reason without a name")?),
    };
    hold(row.outcome == outcome, || "another outcome".to_owned())?;
    // The tables are read with a first entry that stands for none.
    hold(view.ids[0].is_none() && view.blocks[0].0.is_none(), || "0 is not none".to_owned())
}

/// Built again from what it says, a message says the same, and from then on stays as it is.
fn rebuilt(view: &MessageView<'_>, cold: &[Cold<'_>]) -> Result<(), String> {
    let once = build(view, cold)?;
    let view_again = MessageView::read(&once).map_err(|e| format!("built again: {e}"))?;
    let cold_again = view_again.cold().map_err(|e| format!("built again, cold: {e}"))?;
    hold(said(view, cold) == said(&view_again, &cold_again), || {
        "built again it says something else".to_owned()
    })?;
    hold(build(&view_again, &cold_again)? == once, || "built twice it differs".to_owned())
}

fn build(view: &MessageView<'_>, cold: &[Cold<'_>]) -> Result<Vec<u8>, String> {
    let mut builder = MessageBuilder::default();
    let mut entries: Vec<Entry> = view.batches.iter().map(|b| builder.batch(b.clone())).collect();
    entries.extend(view.chunks.iter().map(|chunk| builder.chunk(chunk.clone())));
    for tally in &view.tallies {
        builder.tally(entries[usize::from(tally.entry)], tally.tally);
    }
    for page in &view.pages {
        let (minute, publisher) = (usize::from(page.minute), usize::from(page.publisher));
        let entry = entries[usize::from(page.entry)];
        builder.page(entry, view.minutes[minute], view.ids[publisher], page.told);
    }
    for (row, cold) in view.rows().zip(cold) {
        builder.event(entries[usize::from(row.entry)], &judged(view, &row, cold)?);
    }
    Ok(builder.finish(view.partition, view.stamp))
}

fn judged<'a>(view: &MessageView<'_>, row: &Row, cold: &Cold<'a>) -> Result<Judged<'a>, String> {
    let id = |number: u16| view.ids[usize::from(number)];
    let (issuer, block) = view.blocks[usize::from(row.block)];
    let price = view.prices[usize::from(row.price)];
    let at = view.minutes[usize::from(row.minute)].start().plus_ms(u64::from(cold.ms));
    Ok(Judged {
        issuer,
        id: ImpressionId { block, seq: row.seq },
        kind: row.kind,
        outcome: row.outcome,
        at,
        ad: id(row.ad),
        campaign: id(cold.campaign),
        advertiser: id(cold.advertiser),
        publisher: id(row.publisher),
        placement: id(cold.placement),
        country: Country::from_index(row.country).ok_or("a country without a name")?,
        device: row.device,
        network: cold.network,
        visitor: cold.visitor,
        flags: cold.flags,
        rules: cold.rules,
        // What it says is in the message of another partition; here it is only that it says so.
        page: row.numbered.then_some(PageSeq { page: PageView(0), seq: 1 }),
        // An amount of nothing has no currency once it is written.
        price: if price.micros == 0 { Money::ZERO } else { price },
        proof: cold.proof,
    })
}

/// Everything but the numbers of the tables.
fn said(view: &MessageView<'_>, cold: &[Cold<'_>]) -> Vec<String> {
    let rows = view.rows().zip(cold);
    let rows = rows.map(|(row, cold)| format!("{} {:?}", row.entry, judged(view, &row, cold)));
    let pages = view.pages.iter().map(|page| {
        let (minute, publisher) = (usize::from(page.minute), usize::from(page.publisher));
        let (minute, publisher) = (view.minutes[minute], view.ids[publisher]);
        format!("{} {minute:?} {publisher:?} {:?}", page.entry, page.told)
    });
    rows.chain(pages).collect()
}
