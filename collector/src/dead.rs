//! What an operator sees of the dead letters ([`shared::wire::dead`]).

use std::collections::BTreeMap;

use api::letters::{BatchName, Letter, Letters, Sent};
use bytes::Bytes;
use eventlog::{DEAD, Log, LogError, Message, Reader};
use shared::keys::Sender;
use shared::name::Short;
use shared::wire::{DeadLetter, Resolved, batch};
use shared::{Id, Timestamp};

/// What is said of who has sent a letter where that is not known.
pub const UNKNOWN: &str = "not known";

/// Which letters are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Those behind this one …
    pub after: u64,
    /// … up to and with this one …
    pub until: u64,
    /// … of this sender; `Some(None)`: of those of which that is not known.
    pub sender: Option<Option<Sender>>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { after: 0, until: u64::MAX, sender: None }
    }
}

impl Wanted {
    /// Whether it is one of them.
    #[must_use]
    pub fn takes(&self, sequence: u64, sender: Option<Sender>) -> bool {
        let of_sender = self.sender.is_none_or(|wanted| wanted == sender);
        self.after < sequence && sequence <= self.until && of_sender
    }
}

/// Reads who is meant: `operator`, `issuer:NAME`, `edge:NAME` (a space will do for the colon, as in what
/// is shown), or `unknown`.
///
/// # Errors
/// When it is none of these.
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

/// So many senders are told apart: more than a deployment has, and few enough to be shown. Where NATS
/// lets anybody publish, each name that is made up is one.
pub const SENDERS_MAX: usize = 256;

/// The letters that nobody has looked at yet, oldest first: at most `most` of those that are wanted, and
/// how many there are of each sender.
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

/// One letter, as it came.
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

/// Notes that an operator has looked at these letters.
///
/// # Errors
/// [`LogError`]: some may be noted.
pub async fn resolve<L: Log>(log: &L, sequences: &[u64], now: Timestamp) -> Result<(), LogError> {
    let note = |sequence: &u64| {
        let payload = Resolved { at: now, sequence: *sequence }.to_bytes().into();
        Message { partition: DEAD, payload }
    };
    log.append(sequences.iter().map(note).collect()).await.map(drop)
}

/// Lets the log forget what lies before the first letter that nobody has looked at: letters that are
/// resolved, and notes of such. The last message stays, so that there is one to read up to.
///
/// # Errors
/// [`LogError`]: nothing may be gone, and all that was resolved stays so.
pub async fn forget<L: Log>(log: &L) -> Result<(), LogError> {
    let mut unresolved = Unresolved::open(log).await?;
    let first = unresolved.next().await?.map_or(unresolved.end(), |(sequence, _)| sequence);
    match first.saturating_sub(1) {
        0 => Ok(()),
        upto => log.trim(&[(DEAD, upto)]).await.map(drop),
    }
}

/// The letters that nobody has looked at yet, one after the other: however many there are, memory holds
/// one, and a bit of each that was looked at.
pub struct Unresolved<R> {
    messages: Messages<R>,
    resolved: Numbers,
}

impl<R: Reader> Unresolved<R> {
    /// Those that lie there now. Notes lie behind their letters, so everything is read once before.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn open<L: Log<Reader = R>>(log: &L) -> Result<Self, LogError> {
        let end = end(log).await?;
        let mut messages = Messages::open(log, end).await?;
        let mut resolved = Numbers::default();
        while let Some((own, payload)) = messages.next().await? {
            // What speaks of a later one is no note of ours.
            if let Some(note) = Resolved::read(&payload).filter(|note| note.sequence < own) {
                resolved.insert(note.sequence);
            }
        }
        Ok(Self { messages: Messages::open(log, end).await?, resolved })
    }

    /// The last message's number.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.messages.end
    }

    /// The next.
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

/// A set of numbers that lie near each other.
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

/// What lies in the stream up to a number.
struct Messages<R> {
    /// None when there is nothing.
    reader: Option<R>,
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
            // A local log never waits, and others have something to do.
            tokio::task::yield_now().await;
        }
        Ok((self.last_read <= self.end).then_some((self.last_read, next.payload)))
    }
}

const YIELD_EVERY: u64 = 256;

/// The number of the last message; 0 when there is none.
async fn end<L: Log>(log: &L) -> Result<u64, LogError> {
    Ok(log.end(DEAD).await?.map_or(0, |end| end.sequence))
}

/// Which batch these bytes begin like.
#[must_use]
pub fn batch_name(bytes: &[u8]) -> Option<BatchName> {
    let (outbox, number) = batch::name_of(bytes)?;
    Some(BatchName { edge: outbox.edge, epoch: outbox.epoch, number })
}
