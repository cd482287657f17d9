//! Every message survives, known or not.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::wire::put_varint;
use super::*;

/// Fields with numbers that no message here knows.
fn unknown() -> impl Strategy<Value = Vec<u8>> {
    let field = (100u64..5_000, 0u8..4, vec(any::<u8>(), 0..40), any::<u64>());
    vec(field, 0..4).prop_map(|fields| {
        let mut out = Vec::new();
        for (number, kind, bytes, value) in fields {
            match kind {
                0 => {
                    put_varint(number << 3, &mut out);
                    put_varint(value, &mut out);
                }
                1 => {
                    put_varint(number << 3 | 1, &mut out);
                    out.extend(value.to_le_bytes());
                }
                2 => {
                    put_varint(number << 3 | 2, &mut out);
                    put_varint(bytes.len() as u64, &mut out);
                    out.extend(bytes);
                }
                _ => {
                    put_varint(number << 3 | 5, &mut out);
                    out.extend([1, 2, 3, 4]);
                }
            }
        }
        out
    })
}

fn attributes() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[a-zé]{0,6}", "[a-z]{0,6}", 0..4)
}

prop_compose! {
    fn register()(
        kind in 0u32..5, version in ".{0,9}", ping_interval: u32, namespace in option::of(".{0,9}"),
        allowed_permissions in option::of(vec(any::<u8>(), 0..20)), agent_name in ".{0,9}",
        deployment in ".{0,9}", unknown in unknown(),
    ) -> WorkerMessage {
        RegisterWorkerRequest {
            kind: kind.into(), version, ping_interval, namespace, allowed_permissions, agent_name,
            deployment, unknown,
        }.into()
    }
}

prop_compose! {
    fn availability()(
        job_id in ".{0,9}", available: bool, supports_resume: bool, participant_name in ".{0,9}",
        participant_identity in ".{0,9}", participant_metadata in ".{0,9}",
        participant_attributes in attributes(), terminate: bool, unknown in unknown(),
    ) -> WorkerMessage {
        AvailabilityResponse {
            job_id, available, supports_resume, participant_name, participant_identity,
            participant_metadata, participant_attributes, terminate, unknown,
        }.into()
    }
}

prop_compose! {
    fn update_worker()(
        status in option::of(0u32..3), load in 0f32..2.0, job_count: u32, draining: bool,
        unknown in unknown(),
    ) -> WorkerMessage {
        let status = status.map(WorkerStatus::from);
        UpdateWorkerStatus { status, load, job_count, draining, unknown }.into()
    }
}

prop_compose! {
    fn small()(
        which in 0..4, id in ".{0,9}", status in 0u32..6, ids in vec(".{0,5}", 0..4), time: i64,
        bytes in vec(any::<u8>(), 0..9), unknown in unknown(),
    ) -> WorkerMessage {
        match which {
            0 => UpdateJobStatus {
                job_id: id.clone(), status: status.into(), error: id, unknown,
            }.into(),
            1 => WorkerPing { timestamp: time, unknown }.into(),
            2 => SimulateJobRequest {
                kind: status.into(), room: bytes.clone(), participant: bytes, unknown,
            }.into(),
            _ => MigrateJobRequest { job_ids: ids, unknown }.into(),
        }
    }
}

prop_compose! {
    fn server()(
        which in 0..5, text in ".{0,9}", url in option::of(".{0,9}"), time: i64, resuming: bool,
        bytes in vec(any::<u8>(), 0..40), unknown in unknown(),
    ) -> ServerMessage {
        match which {
            0 => RegisterWorkerResponse { worker_id: text, server_info: bytes, unknown }.into(),
            1 => AvailabilityRequest { job: bytes, resuming, unknown }.into(),
            2 => JobAssignment { job: bytes, url, token: text, unknown }.into(),
            3 => WorkerPong { last_timestamp: time, timestamp: time, unknown }.into(),
            _ => JobTermination { job_id: text, unknown }.into(),
        }
    }
}

proptest! {
    #[test]
    fn what_a_worker_says_survives(
        message in prop_oneof![register(), availability(), update_worker(), small()]
    ) {
        prop_assert_eq!(WorkerMessage::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn what_the_server_says_survives(message in server()) {
        prop_assert_eq!(ServerMessage::decode(&message.encode()), Ok(message));
    }

    /// A kind of message that is not known is passed on byte for byte.
    #[test]
    fn a_foreign_message_survives(bytes in unknown()) {
        let read = ServerMessage::decode(&bytes).unwrap();
        prop_assert_eq!(&read, &ServerMessage::Foreign(Foreign { bytes: bytes.clone() }));
        prop_assert_eq!(read.encode(), bytes);
    }

    /// The job of an assignment comes out byte for byte when the address is set.
    #[test]
    fn a_job_is_passed_on_byte_for_byte(
        id in ".{1,9}", room in ".{0,9}", metadata in ".{0,9}", later in unknown(), token in ".{0,99}",
    ) {
        let view = JobView { id, room, metadata, ..JobView::default() };
        let mut job = view.encode();
        job.extend(&later);
        let from = JobAssignment { job: job.clone(), token: token.clone(), ..Default::default() };
        let read = ServerMessage::decode(&ServerMessage::from(from).encode()).unwrap();
        let ServerMessage::Assignment(mut assignment) = read else { panic!("another kind") };
        assignment.url = Some("wss://real".to_owned());
        let sent = ServerMessage::from(assignment).encode();
        let ServerMessage::Assignment(got) = ServerMessage::decode(&sent).unwrap() else {
            panic!("another kind")
        };
        prop_assert_eq!(&got.job, &job);
        prop_assert_eq!(got.token, token);
        prop_assert_eq!(JobView::of(&got.job).unwrap(), view);
    }
}

/// As it came from livekit-agents 1.8.9, byte by byte: a registration and an answer.
#[test]
fn a_real_workers_bytes_are_understood() {
    // register { version: "1.8.9", agent_name: "demo", allowed_permissions { .. } }
    let frame =
        b"\x0a\x19\x1a\x051.8.9\x3a\x0a\x08\x01\x10\x01\x18\x01\x48\x01\x50\x01\x42\x04demo";
    let WorkerMessage::Register(register) = WorkerMessage::decode(frame).unwrap() else {
        panic!("another kind")
    };
    assert_eq!(register.version, "1.8.9");
    assert_eq!(register.agent_name, "demo");
    assert_eq!((register.kind, &register.namespace), (JobType::Room, &None));
    let permissions = register.allowed_permissions.as_ref();
    assert_eq!(permissions.map(Vec::len), Some(10));
    assert_eq!(WorkerMessage::from(register).encode(), frame);
}

#[test]
fn what_is_malformed_is_refused_by_name() {
    let check = |frame: &[u8], why| assert_eq!(WorkerMessage::decode(frame), Err(why));
    check(b"\x0a", Malformed::Truncated);
    check(b"\x0a\x05ab", Malformed::Truncated);
    check(
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
        Malformed::LongNumber,
    );
    check(b"\x02\x00", Malformed::FieldNumber);
    check(b"\x0b", Malformed::FieldType(1));
    check(b"\x08\x01", Malformed::WrongType(1));
    check(b"\x0a\x04\x42\x02\xff\xfe", Malformed::Text(8));
    check(&vec![0; MESSAGE_BYTES_MAX + 1], Malformed::TooLong);
}
