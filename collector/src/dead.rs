//! The dead letters ([`shared::wire::dead`]) as an operator lists, reads and resolves them.

use std::collections::BTreeMap;

use api::letters::{BatchName, Letter, Letters, Sent};
use bytes::Bytes;
use eventlog::{DEAD, Log, LogError, Message, Reader};
use shared::keys::Sender;
use shared::name::Short;
use shared::wire::{DeadLetter, Resolved, batch};
use shared::{Id, Timestamp};

/// Stands for a sender that is not known.
pub const UNKNOWN: &str = "not known";

/// Which letters are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Letters with sequences above this one …
    pub after: u64,
    /// … up to and including this one …
    pub until: u64,
    /// … of this sender. `None`: of all senders; `Some(None)`: only those whose sender is not known.
    pub sender: Option<Option<Sender>>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { after: 0, until: u64::MAX, sender: None }
    }
}

impl Wanted {
    /// Whether a letter with this sequence and sender is asked for.
    #[must_use]
    pub fn takes(&self, sequence: u64, sender: Option<Sender>) -> bool {
        let of_sender = self.sender.is_none_or(|wanted| wanted == sender);
        self.after < sequence && sequence <= self.until && of_sender
    }
}

/// Reads a sender: `operator`, `issuer:NAME`, `edge:NAME`, or `unknown` (which gives `None`). A space may
/// stand for the colon, and [`UNKNOWN`] for `unknown`, as in what is shown.
///
/// # Errors
/// When the text is none of these.
pub fn parse_sender(text: &str) -> Result<Option<Sender>, String> {
    fn name<T: Short>(name: &str) -> Result<Id<T>, String> {
        name.parse().map_err(|error| format!("{name:.40}: {error}"))
    }
    match text.split_once([':', ' ']) {
        None if text == "operator" => Ok(Some(Sender::Operator)),
        None if text == "unknown" => Ok(None),
        Some(("issuer", issuer)) => Ok(Some(Sender::Issuer(name(issuer)?))),
        Some(("edge", edge)) => Ok(Some(Sender::Edge(name(edge)?))),
        _ if text == UNKNOWN => Ok(None),
        _ => Err("give `operator`, `issuer:NAME`, `edge:NAME`, or `unknown`".to_owned()),
    }
}

/// The most senders whose letters are counted apart; letters of further ones are counted together. There
/// would be no bound where NATS lets anybody publish, for a sender can then be any name.
pub const SENDERS_MAX: usize = 256;

/// Lists the letters that are not resolved, oldest first: at most `most` of those that are wanted, and of
/// all letters how many each sender has.
///
/// # Errors
/// [`LogError`].
pub async fn unresolved<L: Log>(
    log: &L,
    wanted: &Wanted,
    most: usize,
) -> Result<Letters, LogError> {
    let mut unresolved = Unresolved::open(log).await?;
    let (mut letters, mut more, mut all, mut others) = (Vec::new(), false, 0, 0);
    let mut senders: BTreeMap<Option<Sender>, Sent> = BTreeMap::new();
    while let Some((sequence, payload)) = unresolved.next().await? {
        let Some(letter) = DeadLetter::read(&payload) else { continue };
        let (sender, bytes) = (letter.sender, letter.bytes.len());
        all += 1;
        if senders.len() < SENDERS_MAX || senders.contains_key(&sender) {
            let sent = senders.entry(sender).or_insert(Sent { sender, letters: 0, bytes: 0 });
            sent.letters += 1;
            sent.bytes += bytes as u64;
        } else {
            others += 1;
        }
        if !wanted.takes(sequence, sender) {
            continue;
        }
        if letters.len() >= most {
            more = true;
            continue;
        }
        letters.push(Letter {
            sequence,
            at: letter.at,
            sender,
            from: letter.from.to_owned(),
            reason: letter.reason.to_owned(),
            bytes,
            batch: batch_name(letter.bytes),
        });
    }
    let mut senders: Vec<_> = senders.into_values().collect();
    senders.sort_by_key(|sent| std::cmp::Reverse((sent.letters, sent.bytes)));
    Ok(Letters { letters, more, all, senders, others, end: unresolved.end() })
}

/// The letter with this sequence, as it lies in the log; none when there is no such letter.
///
/// # Errors
/// [`LogError`].
pub async fn find<L: Log>(log: &L, wanted: u64) -> Result<Option<Bytes>, LogError> {
    let end = end(log).await?.min(wanted);
    let mut messages = Messages::open(log, end).await?;
    while let Some((sequence, payload)) = messages.next().await? {
        if sequence == wanted && DeadLetter::read(&payload).is_some() {
            return Ok(Some(payload));
        }
    }
    Ok(None)
}

/// Writes notes that these letters are resolved.
///
/// # Errors
/// [`LogError`]: some of the notes may have been written.
pub async fn resolve<L: Log>(log: &L, sequences: &[u64], now: Timestamp) -> Result<(), LogError> {
    let note = |sequence: &u64| {
        let payload = Resolved { at: now, sequence: *sequence }.to_bytes().into();
        Message { partition: DEAD, payload }
    };
    log.append(sequences.iter().map(note).collect()).await.map(drop)
}

/// Lets the log remove what lies before the first letter that is not resolved: resolved letters and notes
/// about them. The last message always stays, so that there is one to read up to.
///
/// # Errors
/// [`LogError`]: perhaps nothing was removed. What was resolved stays resolved.
pub async fn forget<L: Log>(log: &L) -> Result<(), LogError> {
    let mut unresolved = Unresolved::open(log).await?;
    let first = unresolved.next().await?.map_or(unresolved.end(), |(sequence, _)| sequence);
    match first.saturating_sub(1) {
        0 => Ok(()),
        upto => log.trim(&[(DEAD, upto)]).await.map(drop),
    }
}

/// Reads the letters that are not resolved one after the other. Memory holds one letter, and one bit for
/// each that is resolved.
pub struct Unresolved<R> {
    messages: Messages<R>,
    resolved: Numbers,
}

impl<R: Reader> Unresolved<R> {
    /// Covers the letters that are in the log now. A note that resolves a letter lies behind it in the log,
    /// so everything is read once here to collect the notes.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn open<L: Log<Reader = R>>(log: &L) -> Result<Self, LogError> {
        let end = end(log).await?;
        let mut messages = Messages::open(log, end).await?;
        let mut resolved = Numbers::default();
        while let Some((own, payload)) = messages.next().await? {
            // A real note is written after its letter: one that names a later sequence is not ours.
            if let Some(note) = Resolved::read(&payload).filter(|note| note.sequence < own) {
                resolved.insert(note.sequence);
            }
        }
        Ok(Self { messages: Messages::open(log, end).await?, resolved })
    }

    /// Sequence of the last message that is read; 0 when there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.messages.end
    }

    /// The next letter with its sequence; none behind the last.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, LogError> {
        while let Some((sequence, payload)) = self.messages.next().await? {
            if !self.resolved.has(sequence) && DeadLetter::read(&payload).is_some() {
                return Ok(Some((sequence, payload)));
            }
        }
        Ok(None)
    }
}

/// A set of numbers that lie near each other: 64 of them in one word.
#[derive(Default)]
struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    fn insert(&mut self, number: u64) {
        *self.0.entry(number / 64).or_default() |= 1 << (number % 64);
    }

    fn has(&self, number: u64) -> bool {
        self.0.get(&(number / 64)).is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }
}

/// Reads the messages of the dead letters' stream up to a sequence.
struct Messages<R> {
    /// None when there is nothing to read.
    reader: Option<R>,
    /// Sequence of the message that was read last.
    last_read: u64,
    end: u64,
}

impl<R: Reader> Messages<R> {
    async fn open<L: Log<Reader = R>>(log: &L, end: u64) -> Result<Self, LogError> {
        let reader = if end == 0 { None } else { Some(log.reader(DEAD, None).await?) };
        Ok(Self { reader, last_read: 0, end })
    }

    async fn next(&mut self) -> Result<Option<(u64, Bytes)>, LogError> {
        let Some(reader) = self.reader.as_mut().filter(|_| self.last_read < self.end) else {
            return Ok(None);
        };
        let next = reader.next().await?;
        self.last_read = next.position.sequence;
        if self.last_read.is_multiple_of(YIELD_EVERY) {
            // Reading a local log never waits, and would keep other tasks from running.
            tokio::task::yield_now().await;
        }
        Ok((self.last_read <= self.end).then_some((self.last_read, next.payload)))
    }
}

const YIELD_EVERY: u64 = 256;

/// Sequence of the last message; 0 when there is none.
async fn end<L: Log>(log: &L) -> Result<u64, LogError> {
    Ok(log.end(DEAD).await?.map_or(0, |end| end.sequence))
}

/// The batch whose beginning these bytes are; none when they do not begin like a batch.
#[must_use]
pub fn batch_name(bytes: &[u8]) -> Option<BatchName> {
    let (outbox, number) = batch::name_of(bytes)?;
    Some(BatchName { edge: outbox.edge, epoch: outbox.epoch, number })
}
