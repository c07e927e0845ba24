//! Responses as the bytes of gRPC, for both protocols.
//!
//! It decides nothing about what is sent, and knows no stream.
//!
//! Invariant: a resource's bytes are never encoded again. Large ones are handed on as they are; small ones are
//! copied side by side, because a frame of HTTP/2 for each would cost more.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::proto::{
    ControlPlane, DeltaDiscoveryResponse, DiscoveryResponse, ResourceError, ResourceName, Status,
};
use super::session::{Protocol, Response};
use crate::snapshot::Resource;

/// `resources` in both responses.
const RESOURCES: u32 = 2;
/// The flag of compression and the length, before each message of gRPC.
const PREFIX: usize = 5;
/// Roughly how much is made at a time: what one stream leaves behind, the allocator gives to the next, which must
/// not grow by it.
const PIECE: usize = 8 * 1024;
/// From this size on a resource's bytes are shared with all other streams instead of being copied. Not from less,
/// because HTTP/2 keeps room for the most frames that a connection ever had in flight.
const SHARED: usize = PIECE;
/// `NOT_FOUND` of `google.rpc.Code`.
const NOT_FOUND: i32 = 5;

/// The message of a response with its gRPC prefix, in pieces that are made as they are asked for. Fields of a
/// message may come in any order, so that the few of this stream's own stand before the resources.
#[derive(Debug)]
pub(super) struct Pieces {
    protocol: Protocol,
    resources: std::vec::IntoIter<Arc<Resource>>,
    /// What is written and not yet asked for.
    buffer: BytesMut,
    /// The body of a resource whose key and length were written last.
    body: Option<Bytes>,
}

impl Pieces {
    pub(super) fn new(response: Response, protocol: Protocol, identifier: &str) -> Self {
        let head = head(&response, protocol, identifier);
        let length = |resource: &Arc<Resource>| framed_len(encoded(resource, protocol));
        let length = head.len() + response.resources.iter().map(length).sum::<usize>();
        let mut buffer = BytesMut::with_capacity((PREFIX + length).min(PREFIX + head.len() + PIECE));
        buffer.put_u8(0);
        buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        buffer.put_slice(&head);
        Self { protocol, resources: response.resources.into_iter(), buffer, body: None }
    }

    /// Writes resources until there is a piece, or one whose bytes are to be shared.
    fn fill(&mut self) {
        while self.body.is_none() && self.buffer.len() < PIECE {
            let Some(resource) = self.resources.next() else { return };
            let bytes = encoded(&resource, self.protocol);
            let shared = bytes.len() >= SHARED;
            if self.buffer.capacity() == 0 && !shared {
                self.buffer.reserve(PIECE);
            }
            encode_key(RESOURCES, WireType::LengthDelimited, &mut self.buffer);
            encode_varint(bytes.len() as u64, &mut self.buffer);
            if shared {
                self.body = Some(bytes.clone());
            } else {
                self.buffer.put_slice(bytes);
            }
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.fill();
        if self.buffer.is_empty() {
            return self.body.take();
        }
        Some(std::mem::take(&mut self.buffer).freeze())
    }
}

fn encoded(resource: &Resource, protocol: Protocol) -> &Bytes {
    match protocol {
        Protocol::Delta => &resource.bytes,
        Protocol::StateOfTheWorld => &resource.any,
    }
}

fn framed_len(bytes: &Bytes) -> usize {
    key_len(RESOURCES) + encoded_len_varint(bytes.len() as u64) + bytes.len()
}

/// Everything but the resources.
fn head(response: &Response, protocol: Protocol, identifier: &str) -> Vec<u8> {
    let control_plane = Some(ControlPlane { identifier: identifier.to_owned() });
    let (type_url, nonce) = (response.kind.type_url().to_owned(), response.nonce.to_string());
    match protocol {
        Protocol::Delta => DeltaDiscoveryResponse {
            system_version_info: response.generation.to_string(),
            resources: Vec::new(),
            type_url,
            nonce,
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            control_plane,
        }
        .encode_to_vec(),
        Protocol::StateOfTheWorld => DiscoveryResponse {
            version_info: response.version.to_string(),
            resources: Vec::new(),
            type_url,
            nonce,
            control_plane,
            resource_errors: response.missing.iter().map(|name| missing(response, name)).collect(),
        }
        .encode_to_vec(),
    }
}

/// "There is no such resource", in words that end up in the error of a call (`xds.md`, item 99).
fn missing(response: &Response, name: &str) -> ResourceError {
    let message = format!("legation serves no {} resource named {name}", response.kind.short());
    ResourceError {
        resource_name: Some(ResourceName { name: name.to_owned() }),
        error_detail: Some(Status { code: NOT_FOUND, message }),
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3 as envoy;

    use super::*;
    use crate::snapshot::{ResourceType, Version};

    fn response(sizes: &[usize]) -> Response {
        let resources = sizes.iter().enumerate().map(|(index, size)| {
            let name = format!("r{index}").into();
            Arc::new(Resource::encode(ResourceType::Cluster, name, &"x".repeat(*size)))
        });
        Response {
            kind: ResourceType::Cluster,
            nonce: 7,
            generation: 3,
            version: Version::of(ResourceType::Cluster, b""),
            resources: resources.collect(),
            removed: vec!["gone".into()],
            missing: vec!["never".into()],
        }
    }

    fn message(sizes: &[usize], protocol: Protocol) -> (Response, Vec<Bytes>, Bytes) {
        let pieces: Vec<_> = Pieces::new(response(sizes), protocol, "one").collect();
        let mut all = Bytes::from(pieces.concat());
        let prefix = all.split_to(PREFIX);
        assert_eq!(prefix[0], 0);
        assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, all.len());
        (response(sizes), pieces, all)
    }

    #[test]
    fn envoys_own_messages_read_what_is_written() {
        for sizes in [&[][..], &[10], &[10, 50_000, 20, 30, 100_000], &[20_000, 20_000], &[3_000; 40]] {
            let (response, _, delta) = message(sizes, Protocol::Delta);
            let delta = envoy::DeltaDiscoveryResponse::decode(delta).unwrap();
            assert_eq!(
                delta.resources.iter().map(|it| it.name.clone()).collect::<Vec<_>>(),
                names(&response)
            );
            assert_eq!((&*delta.nonce, &*delta.system_version_info), ("7", "3"));
            assert_eq!(delta.removed_resources, ["gone"]);
            assert_eq!(delta.control_plane.unwrap().identifier, "one");

            let (_, _, sotw) = message(sizes, Protocol::StateOfTheWorld);
            let sotw = envoy::DiscoveryResponse::decode(sotw).unwrap();
            assert_eq!(sotw.resources.len(), sizes.len());
            assert!(sotw.resources.iter().all(|any| any.type_url == sotw.type_url));
            assert_eq!(sotw.version_info, response.version.to_string());
            let error = &sotw.resource_errors[0];
            assert_eq!(error.resource_name.as_ref().unwrap().name, "never");
            assert_eq!(error.error_detail.as_ref().unwrap().code, NOT_FOUND);
        }
    }

    fn names(response: &Response) -> Vec<String> {
        response.resources.iter().map(|it| it.name.to_string()).collect()
    }

    #[test]
    fn large_resources_are_shared_and_pieces_are_moderate() {
        let response = response(&[10, 100_000]);
        let large = response.resources[1].bytes.clone();
        let pieces: Vec<_> = Pieces::new(response, Protocol::Delta, "one").collect();
        assert_eq!(pieces.len(), 2);
        assert!(std::ptr::eq(pieces[1].as_ptr(), large.as_ptr()));
        let (_, pieces, all) = message(&[1_000; 100], Protocol::Delta);
        assert!(pieces.iter().all(|piece| piece.len() < PIECE + 2_000), "{pieces:?}");
        assert!(pieces.len() <= all.len() / PIECE + 1);
    }
}
