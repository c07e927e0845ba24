//! Any bytes as the body of a stream: read, identified and answered, or refused with a status.
//!
//! It is not about what a client that keeps to the protocol is served: `session` is.
//!
//! Invariant: no bytes make it panic, wait for ever or answer without end.

#![no_main]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use legation::snapshot::{ProxyClass, Resource, ResourceType, Slice, Snapshot, Tables};
use legation::xds::identity::identify;
use legation::xds::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Node};
use legation::xds::reader::Reader;
use legation::xds::session::{Protocol, Request, Session, Terms};
use libfuzzer_sys::fuzz_target;

/// Nobody asks for more of so small a snapshot in one request.
const ENOUGH: usize = 64;
/// As `xds.maxNames`, but so few that it matters.
const MAX_NAMES: usize = 50;

fuzz_target!(|input: &[u8]| {
    let [head, body @ ..] = input else { return };
    let protocol = if head & 1 == 0 { Protocol::Delta } else { Protocol::StateOfTheWorld };
    let only = ResourceType::ALL.get(usize::from(head >> 1 & 7)).copied();
    // HTTP/2 cuts where it likes.
    let chunks = body.chunks(1 << (head >> 4)).map(Bytes::copy_from_slice);
    let chunks = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    let mut reader = Reader::new(StreamBody::new(stream::iter(chunks)));
    let terms = Terms { protocol, only, max_names: MAX_NAMES };
    let mut session = None;
    while let Some((node, request)) = read(&mut reader, protocol) {
        if session.is_none() {
            let Ok((node, _)) = identify(node.as_ref()) else { return };
            session = Some(Session::new(terms, slice(node.class), Instant::now()));
        }
        let Some(session) = &mut session else { return };
        if session.on_request(request).is_err() {
            return;
        }
        let responses = std::iter::from_fn(|| session.next_response(Instant::now()));
        assert!(responses.take(ENOUGH).count() < ENOUGH, "answers without end");
    }
});

/// The next request; `None` when there is none or the stream ends with a status.
fn read<B>(reader: &mut Reader<B>, protocol: Protocol) -> Option<(Option<Node>, Request)>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    match protocol {
        Protocol::Delta => {
            let request = reader.next::<DeltaDiscoveryRequest>().now_or_never()?.ok()??;
            Some((request.node.clone(), request.into()))
        }
        Protocol::StateOfTheWorld => {
            let request = reader.next::<DiscoveryRequest>().now_or_never()?.ok()??;
            Some((request.node.clone(), request.into()))
        }
    }
}

/// One resource of each type.
fn slice(class: ProxyClass) -> Slice {
    let mut tables = Tables::default();
    for kind in ResourceType::ALL {
        tables.insert(Arc::new(Resource::encode(kind, "a".into(), &"content".to_owned())));
    }
    let snapshot = Snapshot::first("prod".into(), tables, Vec::new(), SystemTime::UNIX_EPOCH);
    Slice::new(Arc::new(snapshot), class, "node", &[])
}
