//! Cuts an HTTP/2 connection right behind one gRPC message: what a server says next is never heard.
//!
//! It understands no more than frames and the length of messages. It has to begin between two messages, so
//! whoever wants it lets the connection fall silent first. Invariant: what is passed on is whole frames.

/// Frame header: length 3, type 1, flags 1, stream 4.
const HEADER: usize = 9;
const DATA: u8 = 0;
/// gRPC's own: compressed 1, length 4.
const PREFIX: usize = 5;

/// Looks through what a server says for a message that holds some bytes.
#[derive(Debug)]
pub(super) struct Sever {
    needle: Vec<u8>,
    /// What is not yet a whole frame.
    frames: Vec<u8>,
    /// What is not yet a whole message.
    message: Vec<u8>,
}

impl Sever {
    pub(super) fn behind(needle: &[u8]) -> Self {
        Self { needle: needle.to_vec(), frames: Vec::new(), message: Vec::new() }
    }

    /// Takes bytes from the server and gives those to pass on; true if they end with the message.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        self.frames.extend_from_slice(bytes);
        let mut passed = Vec::new();
        while let Some(length) = frame_length(&self.frames) {
            let rest = self.frames.split_off(length);
            let mut frame = std::mem::replace(&mut self.frames, rest);
            if frame[3] == DATA
                && let Some(end) = self.end_of_message(&frame[HEADER..])
            {
                frame.truncate(HEADER + end);
                frame[..3].copy_from_slice(&u32::try_from(end).unwrap_or_default().to_be_bytes()[1..]);
                passed.extend(frame);
                return (passed, true);
            }
            passed.extend(frame);
        }
        (passed, false)
    }

    /// Where in this payload the message ends, if it is the one.
    fn end_of_message(&mut self, payload: &[u8]) -> Option<usize> {
        let before = self.message.len();
        self.message.extend_from_slice(payload);
        let mut begin = 0;
        while let Some(length) = message_length(&self.message[begin..]) {
            let found = contains(&self.message[begin..begin + length], &self.needle);
            begin += length;
            if found {
                return begin.checked_sub(before);
            }
        }
        self.message.drain(..begin);
        None
    }
}

/// The length of the first frame with its header, once it is whole.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes([0, *bytes.first()?, *bytes.get(1)?, *bytes.get(2)?]);
    let length = HEADER + usize::try_from(length).ok()?;
    (bytes.len() >= length).then_some(length)
}

/// The length of the first message with its prefix, once it is whole.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = bytes.get(1..PREFIX)?.try_into().ok()?;
    let length = PREFIX + usize::try_from(u32::from_be_bytes(length)).ok()?;
    (bytes.len() >= length).then_some(length)
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len().max(1)).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn message(text: &str) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        message.extend(text.bytes());
        message
    }

    #[test]
    fn it_ends_behind_the_message_wherever_frames_and_reads_are_cut() {
        let (one, two, three) = (message("one"), message("the cluster"), message("endpoints"));
        let all = [one.clone(), two.clone(), three].concat();
        let wanted = one.len() + two.len();
        for split in 1..all.len() {
            let ping = frame(6, b"cluster!");
            let sent = [frame(DATA, &all[..split]), ping, frame(DATA, &all[split..])].concat();
            for step in [1, 7, sent.len()] {
                let (mut sever, mut over) = (Sever::behind(b"cluster"), false);
                let mut heard: Vec<u8> = Vec::new();
                for bytes in sent.chunks(step) {
                    if !over {
                        let (passed, ended) = sever.feed(bytes);
                        heard.extend(passed);
                        over = ended;
                    }
                }
                assert!(over, "split at {split}");
                let mut payload: Vec<u8> = Vec::new();
                while let Some(length) = frame_length(&heard) {
                    let frame: Vec<u8> = heard.drain(..length).collect();
                    if frame[3] == DATA {
                        payload.extend(&frame[HEADER..]);
                    }
                }
                assert!(heard.is_empty(), "half a frame was passed on");
                assert_eq!(payload, all[..wanted], "split at {split}, read by {step}");
            }
        }
    }

    #[test]
    fn without_the_message_everything_passes() {
        let sent = [frame(4, b""), frame(DATA, &message("endpoints"))].concat();
        assert_eq!(Sever::behind(b"cluster").feed(&sent), (sent, false));
    }
}
