//! How an isolate calls its shard.

use std::rc::Rc;

use shared::id::IdRange;
use shared::{EdgeId, Timestamp};
use wasm_bindgen::JsValue;
use worker::Env;

use super::glue::{self, Answered};
use super::platform::now;
use crate::outbox::parcel::Parcel;

/// A shard, for the use of one request: what the platform gives to a request, no other may use.
#[derive(Debug)]
pub(super) struct Shard {
    edge: EdgeId,
    stub: JsValue,
}

/// Finds the shard, for one request.
pub(super) type FindShard = Rc<dyn Fn() -> Result<Shard, ShardError>>;

/// Why a shard did not take something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ShardError {
    /// It has no room for events.
    Full,
    /// It did not answer, or not as it should; it may have taken the events or not.
    Away(String),
}

/// The shard's answer to the question which policy the centre sent last.
#[derive(Debug)]
pub(super) struct PolicyAnswer {
    pub(super) tag: String,
    /// `None` when the caller has it already.
    pub(super) text: Option<String>,
    /// When the centre last confirmed it.
    pub(super) at: Timestamp,
}

impl Shard {
    /// The shard of that name; `hint` is the region in which it is made when it is new.
    pub(super) fn find(env: &Env, edge: EdgeId, hint: Option<&str>) -> Result<Self, ShardError> {
        let stub = glue::stub(env, edge.as_str(), hint.unwrap_or_default());
        let stub = stub.map_err(|why| ShardError::Away(format!("the binding OUTBOX: {why:?}")))?;
        Ok(Self { edge, stub })
    }

    /// Hands over a parcel, which is durable when this returns `Ok`. With `wants_lease` it returns
    /// new ids.
    pub(super) async fn append(
        &self,
        parcel: &Parcel,
        wants_lease: bool,
    ) -> Result<Option<IdRange>, ShardError> {
        let what = if wants_lease { "append?lease" } else { "append" };
        let bytes = parcel.to_bytes(self.edge);
        let reply = self.ask("POST", what, &[], Some(&bytes)).await?;
        match reply.status {
            204 => Ok(None),
            200 => Ok(IdRange::from_bytes(&reply.body)),
            507 => Err(ShardError::Full),
            status => {
                let why = reply.text();
                Err(ShardError::Away(format!("the outbox answers {status}: {why:.200}")))
            }
        }
    }

    /// Asks for new ids.
    pub(super) async fn lease(&self) -> Result<IdRange, ShardError> {
        let reply = self.ask("POST", "lease", &[], None).await?;
        let range = IdRange::from_bytes(&reply.body);
        range.ok_or_else(|| ShardError::Away("the outbox gives no ids".to_owned()))
    }

    /// Asks for the policy that the centre sent last; `known` is the entity tag of the one that the
    /// caller has.
    pub(super) async fn policy(&self, known: &str) -> Result<PolicyAnswer, ShardError> {
        let reply = self.ask("GET", "policy", &[("if-none-match", known)], None).await?;
        let text = match reply.status {
            200 => Some(reply.text()),
            304 => None,
            _ => return Err(ShardError::Away(reply.text())),
        };
        let at = now().minus_ms(reply.age.saturating_mul(1_000));
        Ok(PolicyAnswer { tag: reply.etag, text, at })
    }

    /// Asks for its state, as its `/NAME/state` gives it.
    pub(super) async fn state(&self) -> Result<serde_json::Value, ShardError> {
        let reply = self.ask("GET", "state", &[], None).await?;
        serde_json::from_slice(&reply.body).map_err(|error| ShardError::Away(error.to_string()))
    }

    async fn ask(
        &self,
        method: &str,
        what: &str,
        fields: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answered, ShardError> {
        // The host has no meaning: the stub is the address.
        let url = format!("http://outbox/{}/{what}", self.edge);
        let answered = glue::ask(Some(&self.stub), method, &url, fields, body).await;
        answered.map_err(ShardError::Away)
    }
}
