//! The only place where bytes become messages and messages become bytes.
//!
//! bincode 1.3.3 with fixed-width integers, a limit of [`FRAME_MAX`] in both directions, and no trailing bytes. Its
//! authors call 1.3.3 complete (RUSTSEC-2025-0141 records that nobody maintains it; 3.0.0 is a tombstone that does not
//! compile). Why it is still the right one here: with a limit it refuses a hostile length before allocating, it
//! refuses to *encode* what the other side would refuse, and its fixed-width output is what wincode writes too, so
//! there is a way out that keeps the wire format.
//!
//! The options are private. `bincode::serialize` and `bincode::deserialize` use other options (no limit, trailing bytes
//! accepted) and must not be called anywhere else.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

/// The longest packet either side sends or accepts, in bytes.
pub const FRAME_MAX: usize = 4096;

/// Why a packet is no message, or a message no packet.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The packet is longer than [`FRAME_MAX`].
    #[error("a frame of {0} bytes is longer than the {FRAME_MAX} that are allowed")]
    FrameTooLong(usize),
    /// The bytes are not a message of the expected kind.
    #[error("{0} bytes that are no {1}: {2}")]
    NotAMessage(usize, &'static str, String),
    /// The message does not fit into one frame.
    #[error("a {0} does not fit into a frame of {FRAME_MAX} bytes: {1}")]
    DoesNotFit(&'static str, String),
}

fn options() -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(FRAME_MAX as u64)
        .reject_trailing_bytes()
}

fn kind<T>() -> &'static str {
    let full = std::any::type_name::<T>();
    full.rsplit("::").next().unwrap_or(full)
}

/// Turns a message into one frame.
///
/// ```
/// use coheap_protocol::{Request, decode, encode};
/// let frame = encode(&Request::Ping)?;
/// assert_eq!(decode::<Request>(&frame)?, Request::Ping);
/// # Ok::<(), coheap_protocol::CodecError>(())
/// ```
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    options()
        .serialize(message)
        .map_err(|e| CodecError::DoesNotFit(kind::<T>(), e.to_string()))
}

/// Turns one whole frame into a message, or says why it is none. Never panics, never allocates beyond the frame.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, CodecError> {
    if frame.len() > FRAME_MAX {
        return Err(CodecError::FrameTooLong(frame.len()));
    }
    options()
        .deserialize(frame)
        .map_err(|e| CodecError::NotAMessage(frame.len(), kind::<T>(), e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;

    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: T) {
        let frame = encode(&message).expect("encodes");
        assert!(frame.len() <= FRAME_MAX);
        assert_eq!(decode::<T>(&frame).expect("decodes"), message);
    }

    fn hello() -> Hello {
        Hello::new(Role::Worker, 3, 0xfeed, "coheap-worker")
    }

    #[test]
    fn every_kind_of_message_comes_back_as_it_went() {
        round_trip(hello());
        round_trip(Answer::Refused(Refused::new(
            codes::LAYOUT,
            "E070",
            "what",
            "try",
        )));
        round_trip(Answer::Welcome(Welcome {
            daemon_pid: 1,
            incarnation: 2,
            p_hint: 3,
            name: "n".into(),
            version: "v".into(),
        }));
        round_trip(Request::Run(RunRequest {
            run: RunId(7),
            workload: Workload::Index {
                dir: "/usr/share/doc".into(),
                out: None,
            },
            seed: 1,
            storm: Storm {
                kill_ms: 200,
                stop_ms: 0,
            },
            redeliver_max: 0,
        }));
        for request in [
            Request::Ping,
            Request::Status,
            Request::Ps,
            Request::Tasks,
            Request::Dead,
            Request::Totals,
            Request::Config,
        ] {
            round_trip(request);
        }
        round_trip(Request::Signal {
            p: 3,
            signal: SignalKind::Kill,
        });
        round_trip(Reply::Status(Box::default()));
        round_trip(Reply::Totals(Box::new(Totals {
            pause_hist: vec![1; 48],
            ..Totals::default()
        })));
        round_trip(Reply::Done(Outcome {
            run: RunId(7),
            ok: true,
            json: "x".repeat(3500),
        }));
        round_trip(WorkerSays::Leased { p: 1 });
        round_trip(WorkerOrder::Submit {
            run: RunId(9),
            seed: 4,
            workload: Workload::Trees { depth: 10 },
        });
    }

    #[test]
    fn a_message_too_long_for_a_frame_is_refused_when_it_is_made() {
        let too_long = Reply::Text("x".repeat(FRAME_MAX));
        assert!(matches!(
            encode(&too_long),
            Err(CodecError::DoesNotFit("Reply", _))
        ));
    }

    #[test]
    fn a_frame_too_long_is_refused_before_it_is_read() {
        assert!(matches!(
            decode::<Request>(&[0; FRAME_MAX + 1]),
            Err(CodecError::FrameTooLong(_))
        ));
    }

    #[test]
    fn one_byte_too_many_or_too_few_is_no_message() {
        let mut frame = encode(&hello()).expect("encodes");
        frame.push(0);
        assert!(decode::<Hello>(&frame).is_err(), "trailing byte accepted");
        for cut in 0..frame.len() - 1 {
            assert!(
                decode::<Hello>(&frame[..cut]).is_err(),
                "cut at {cut} accepted"
            );
        }
    }

    #[test]
    fn a_hostile_length_costs_an_error_and_no_memory() {
        let mut frame = encode(&Reply::Text(String::new())).expect("encodes");
        let at = frame.len() - 8;
        frame[at..].copy_from_slice(&(1u64 << 40).to_le_bytes());
        assert!(decode::<Reply>(&frame).is_err());
    }

    /// A seeded xorshift: the same bytes on every machine.
    fn noise(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for round in 0..50_000u64 {
            let len = (noise(&mut state) % 200) as usize;
            let mut frame: Vec<u8> = (0..len).map(|_| noise(&mut state) as u8).collect();
            if round % 2 == 0 && len >= 4 {
                // Half of them begin with a plausible variant, so that the fields behind it are reached too.
                frame[..4].copy_from_slice(&((noise(&mut state) % 20) as u32).to_le_bytes());
            }
            let _ = decode::<Hello>(&frame);
            let _ = decode::<Answer>(&frame);
            let _ = decode::<Request>(&frame);
            let _ = decode::<Reply>(&frame);
            let _ = decode::<WorkerSays>(&frame);
            let _ = decode::<WorkerOrder>(&frame);
        }
    }
}
