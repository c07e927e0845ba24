//! gRPC messages out of the body of a request.
//!
//! It is not tonic's reader, because that keeps for each stream the largest buffer that it ever needed, and a
//! reconnect can need megabytes.
//!
//! Invariant: between two messages nothing is kept; within one, no more than the message.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use prost::Message;
use tonic::Status;

/// The flag of compression and the length, before each message.
const PREFIX: usize = 5;
/// A reconnect presents the version of everything the client holds: 1.8 MiB for 20,000 clusters.
const LONGEST: usize = 64 * 1024 * 1024;

/// The messages of one stream.
#[derive(Debug)]
pub struct Reader<B> {
    body: B,
    begun: BytesMut,
}

impl<B: http_body::Body<Data: Buf> + Unpin> Reader<B> {
    /// The messages of that body.
    pub fn new(body: B) -> Self {
        Self { body, begun: BytesMut::new() }
    }

    /// The next message; `None` when the client has ended its side. May be dropped and called again.
    pub async fn next<T: Message + Default>(&mut self) -> Result<Option<T>, Status> {
        loop {
            if let Some(message) = self.complete()? {
                return T::decode(message)
                    .map(Some)
                    .map_err(|error| Status::invalid_argument(format!("malformed request: {error}")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.begun.extend_from_slice(data.chunk());
                    }
                }
                Some(Err(_)) => return Err(Status::cancelled("the client is gone")),
                None if self.begun.is_empty() => return Ok(None),
                None => return Err(Status::invalid_argument("the stream ended within a request")),
            }
        }
    }

    fn complete(&mut self) -> Result<Option<impl Buf + use<B>>, Status> {
        let Some((prefix, rest)) = self.begun.split_at_checked(PREFIX) else { return Ok(None) };
        let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if prefix[0] != 0 {
            return Err(Status::unimplemented("requests must not be compressed"));
        }
        if length > LONGEST {
            let message = format!("a request of {length} bytes: the most is {LONGEST}");
            return Err(Status::resource_exhausted(message));
        }
        if rest.len() < length {
            return Ok(None); // room is made for what arrives, not for what is announced
        }
        self.begun.advance(PREFIX);
        let message = self.begun.split_to(length);
        if self.begun.is_empty() {
            self.begun = BytesMut::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;

    type Said = Result<Frame<Bytes>, std::convert::Infallible>;

    fn reader(chunks: &[&[u8]]) -> Reader<impl http_body::Body<Data = Bytes> + Unpin + use<>> {
        let chunks: Vec<Said> =
            chunks.iter().map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        Reader::new(StreamBody::new(stream::iter(chunks)))
    }

    fn framed(text: &str) -> Vec<u8> {
        let body = text.to_owned().encode_to_vec();
        let length = u32::try_from(body.len()).unwrap();
        [&[0][..], &length.to_be_bytes(), &body].concat()
    }

    #[tokio::test]
    async fn messages_come_whole_however_they_are_cut() {
        let all = [framed("first"), framed(""), framed(&"long".repeat(1_000))].concat();
        for size in [1, 2, 5, 7, 1_000, all.len()] {
            let chunks: Vec<_> = all.chunks(size).collect();
            let mut reader = reader(&chunks);
            for expected in ["first".to_owned(), String::new(), "long".repeat(1_000)] {
                assert_eq!(reader.next::<String>().await.unwrap(), Some(expected), "in pieces of {size}");
            }
            assert_eq!(reader.next::<String>().await.unwrap(), None);
            assert_eq!(reader.begun.capacity(), BytesMut::new().capacity(), "something is kept");
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_told() {
        for (chunk, code, words) in [
            (&[1, 0, 0, 0, 0][..], Code::Unimplemented, "compressed"),
            (&[0, 255, 0, 0, 0], Code::ResourceExhausted, "the most is 67108864"),
            (&[0, 0, 0, 0, 2, 0xff, 0xff], Code::InvalidArgument, "malformed request"),
            (&[0, 0, 0], Code::InvalidArgument, "ended within a request"),
            (&[0, 0, 0, 0, 9, 1], Code::InvalidArgument, "ended within a request"),
        ] {
            let status = reader(&[chunk]).next::<String>().await.unwrap_err();
            assert_eq!(status.code(), code);
            assert!(status.message().contains(words), "{status}");
        }
    }
}
