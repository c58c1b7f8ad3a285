//! An isolate's way to its shard.

use std::rc::Rc;

use shared::Id;
use shared::id::IdRange;
use worker::{Env, Headers, Method, Request, RequestInit, Response, Stub};

use crate::outbox::parcel::Parcel;

/// The binding of the shards' namespace.
const BINDING: &str = "OUTBOX";

/// A shard, as this request may reach it: what the platform gives to one request, no other may use.
#[derive(Debug)]
pub(super) struct Shard {
    edge: Id,
    stub: Stub,
}

/// Finds the shard, for one request.
pub(super) type FindShard = Rc<dyn Fn() -> Result<Shard, ShardError>>;

/// Why a shard did not take something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ShardError {
    /// It has no room for events.
    Full,
    /// It did not answer, or not as it should: it may have them.
    Away(String),
}

impl Shard {
    /// The shard of that name.
    pub(super) fn find(env: &Env, edge: Id, hint: Option<&str>) -> worker::Result<Self> {
        let namespace = env.durable_object(BINDING)?;
        let stub = match hint {
            Some(hint) => namespace.get_by_name_with_location_hint(edge.as_str(), hint)?,
            None => namespace.get_by_name(edge.as_str())?,
        };
        Ok(Self { edge, stub })
    }

    /// Hands a parcel over; it is durable when this returns `Ok`. With `wants_lease`, new ids come
    /// back.
    pub(super) async fn append(
        &self,
        parcel: &Parcel,
        wants_lease: bool,
    ) -> Result<Option<IdRange>, ShardError> {
        let query = if wants_lease { "?lease" } else { "" };
        let bytes = parcel.to_bytes(self.edge);
        let reply = self.ask(Method::Post, &format!("append{query}"), Some(&bytes)).await;
        let mut reply = reply.map_err(away)?;
        match reply.status_code() {
            204 => Ok(None),
            200 => Ok(IdRange::from_bytes(&reply.bytes().await.map_err(away)?)),
            507 => Err(ShardError::Full),
            status => {
                let why = reply.text().await.unwrap_or_default();
                Err(ShardError::Away(format!("the outbox answers {status}: {why:.200}")))
            }
        }
    }

    /// New ids.
    pub(super) async fn lease(&self) -> Result<IdRange, ShardError> {
        let mut reply = self.ask(Method::Post, "lease", None).await.map_err(away)?;
        let bytes = reply.bytes().await.map_err(away)?;
        let range = IdRange::from_bytes(&bytes);
        range.ok_or_else(|| ShardError::Away("the outbox gives no ids".to_owned()))
    }

    /// What the centre told last: its entity tag and the text; `None` when it is the `known` one.
    pub(super) async fn policy(&self, known: &str) -> Result<Option<(String, String)>, ShardError> {
        let headers = Headers::new();
        headers.set("if-none-match", known).map_err(away)?;
        let mut init = RequestInit::new();
        init.with_headers(headers);
        let reply = self.send("policy", &init).await;
        let mut reply = reply.map_err(away)?;
        let told = reply.text().await.map_err(away)?;
        match reply.status_code() {
            200 => Ok(Some((reply.headers().get("etag").map_err(away)?.unwrap_or_default(), told))),
            304 => Ok(None),
            _ => Err(ShardError::Away(told)),
        }
    }

    /// How it is.
    pub(super) async fn state(&self) -> Result<serde_json::Value, ShardError> {
        let mut reply = self.ask(Method::Get, "state", None).await.map_err(away)?;
        reply.json().await.map_err(away)
    }

    async fn ask(
        &self,
        method: Method,
        what: &str,
        body: Option<&[u8]>,
    ) -> worker::Result<Response> {
        let mut init = RequestInit::new();
        init.with_method(method).with_headers(Headers::new());
        if let Some(body) = body {
            init.with_body(Some(js_sys::Uint8Array::from(body).into()));
        }
        self.send(what, &init).await
    }

    async fn send(&self, what: &str, init: &RequestInit) -> worker::Result<Response> {
        // The host means nothing: the stub is the address.
        let url = format!("http://outbox/{}/{what}", self.edge);
        self.stub.fetch_with_request(Request::new_with_init(&url, init)?).await
    }
}

fn away(error: worker::Error) -> ShardError {
    ShardError::Away(error.to_string())
}
