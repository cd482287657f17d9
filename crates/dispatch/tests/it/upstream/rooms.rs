//! Rooms, who is in them, and the services under `/twirp` that tell and change it: `ListRooms`,
//! `ListParticipants`, `UpdateRoomMetadata`, `CreateDispatch` and `ListDispatch`, in protobuf only.
//!
//! As in the open-source server: `ListRooms` needs the grant `roomList`, the others `roomAdmin` for that
//! room; a room that is not there has no participants, is not found where it is changed, and is made
//! anew by a dispatch; an agent is there from its assignment on; when it leaves, its job is terminated;
//! a dispatch is launched once, at once, and stays with its room.
//!
//! Not verified against a running server, only read in its source: the words of errors; that
//! `CreateDispatch` takes an empty agent name; that a dispatch of an agent whose worker died is
//! still listed. Otherwise than there: an agent that dies is gone when the test says so, and not
//! after some ten seconds; `ListDispatch` for no room answers at once, and not after three.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prost::Message;
use serde_json::Value;

use super::worker::since_epoch;
use super::{Inner, Upstream, job};
use crate::wire::{Job, Room};

/// Kinds of participants.
const STANDARD: i32 = 0;
const AGENT: i32 = 4;

#[derive(Default)]
pub(super) struct Rooms(Mutex<State>);

#[derive(Default)]
struct State {
    rooms: BTreeMap<String, Open>,
    /// Dispatches whose answers will be lost on their way.
    lost_answers: u32,
    /// Requests that fail before anything is done.
    failures: u32,
}

struct Open {
    sid: String,
    metadata: String,
    there: BTreeMap<String, There>,
    dispatches: Vec<Dispatched>,
}

struct There {
    kind: i32,
    /// An agent's name and its job.
    agent: Option<(String, String)>,
}

#[derive(Clone)]
struct Dispatched {
    id: String,
    agent_name: String,
    metadata: String,
    created_at: i64,
}

#[allow(dead_code, reason = "for tests of what is done with rooms")]
impl Upstream {
    /// A room with one caller, and the job that it makes; nobody is asked yet.
    pub(crate) fn open_room(&self, agent_name: &str, metadata: &str) -> Job {
        let job = job(agent_name, metadata);
        let room = job.room.clone().expect("it has one");
        let open = Open {
            sid: room.sid,
            metadata: String::new(),
            there: BTreeMap::new(),
            dispatches: vec![Dispatched {
                id: job.dispatch_id.clone(),
                agent_name: agent_name.to_owned(),
                metadata: metadata.to_owned(),
                created_at: nanos(),
            }],
        };
        self.rooms().rooms.insert(room.name.clone(), open);
        self.join(&room.name, "caller");
        job
    }

    /// Somebody comes in who is no agent.
    pub(crate) fn join(&self, room: &str, identity: &str) {
        let there = There {
            kind: STANDARD,
            agent: None,
        };
        let mut state = self.rooms();
        let open = state.rooms.get_mut(room).expect("it is open");
        open.there.insert(identity.to_owned(), there);
    }

    /// Somebody is gone. If it was an agent its job is terminated.
    pub(crate) fn leave(&self, room: &str, identity: &str) {
        let left = {
            let mut state = self.rooms();
            let open = state.rooms.get_mut(room).expect("it is open");
            open.there.remove(identity).expect("it is there")
        };
        if let Some((_, job)) = left.agent {
            self.terminate(&job);
        }
    }

    /// The agent of a job is there again, as one whose network was gone.
    pub(crate) fn rejoin(&self, room: &str, identity: &str, job: &Job) {
        let there = There {
            kind: AGENT,
            agent: Some((job.agent_name.clone(), job.id.clone())),
        };
        let mut state = self.rooms();
        let open = state.rooms.get_mut(room).expect("it is open");
        open.there.insert(identity.to_owned(), there);
    }

    pub(crate) fn close_room(&self, room: &str) {
        self.rooms().rooms.remove(room);
    }

    pub(crate) fn set_room_metadata(&self, room: &str, metadata: &str) {
        let mut state = self.rooms();
        let open = state.rooms.get_mut(room).expect("it is open");
        metadata.clone_into(&mut open.metadata);
    }

    pub(crate) fn room_metadata(&self, room: &str) -> String {
        self.rooms().rooms[room].metadata.clone()
    }

    /// The jobs whose agents are in a room.
    pub(crate) fn agents_in(&self, room: &str) -> Vec<String> {
        let state = self.rooms();
        let there = state.rooms[room].there.values();
        let agents = there.filter_map(|there| Some(there.agent.as_ref()?.1.clone()));
        agents.collect()
    }

    /// How many agents were asked for, ever.
    pub(crate) fn dispatches_of(&self, room: &str) -> usize {
        self.rooms().rooms[room].dispatches.len()
    }

    /// So many dispatches will be made, and their answers lost.
    pub(crate) fn lose_answers(&self, count: u32) {
        self.rooms().lost_answers = count;
    }

    /// So many requests will fail.
    pub(crate) fn fail_requests(&self, count: u32) {
        self.rooms().failures = count;
    }

    fn rooms(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.rooms.0.lock().unwrap()
    }
}

impl Rooms {
    /// An agent joins the room of its job, if that is one of ours.
    pub(super) fn assigned(&self, job: &Job, identity: &str) {
        let mut state = self.0.lock().unwrap();
        let room = job.room.as_ref().map_or("", |room| &room.name);
        if let Some(open) = state.rooms.get_mut(room) {
            let there = There {
                kind: AGENT,
                agent: Some((job.agent_name.clone(), job.id.clone())),
            };
            open.there.insert(identity.to_owned(), there);
        }
    }

    /// The agent of a job is gone with it.
    pub(super) fn ended(&self, job: &str) {
        let mut state = self.0.lock().unwrap();
        for open in state.rooms.values_mut() {
            let stays = |there: &There| there.agent.as_ref().is_none_or(|(_, of)| of != job);
            open.there.retain(|_, there| stays(there));
        }
    }

    /// Answers a request: the status and the body.
    pub(super) fn answer(
        &self,
        inner: &Arc<Inner>,
        method: &str,
        claims: &Value,
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let may = &claims["video"];
        let mut state = self.0.lock().unwrap();
        if state.failures > 0 {
            state.failures -= 1;
            return (503, Vec::new());
        }
        let Ok(request) = Request::decode(body) else {
            return (400, b"not understood".to_vec());
        };
        let room = match method {
            "RoomService/ListRooms" => {
                if may["roomList"] != true {
                    return (401, b"permissions denied".to_vec());
                }
                let named = [&request.one];
                return (200, state.list(&named).encode_to_vec());
            }
            "RoomService/ListParticipants" | "RoomService/UpdateRoomMetadata" => &request.one,
            "AgentDispatchService/CreateDispatch" | "AgentDispatchService/ListDispatch" => {
                &request.two
            }
            _ => return (404, b"bad route".to_vec()),
        };
        if may["roomAdmin"] != true || may["room"] != **room {
            return (401, b"permissions denied".to_vec());
        }
        match method {
            "RoomService/ListParticipants" => {
                let open = state.rooms.get(room);
                let there = open.into_iter().flat_map(|open| &open.there);
                let list = there.map(|(identity, there)| Participant::of(identity, there));
                let participants = list.collect();
                (200, Participants { participants }.encode_to_vec())
            }
            "RoomService/UpdateRoomMetadata" => {
                let Some(open) = state.rooms.get_mut(room) else {
                    return (404, b"requested room does not exist".to_vec());
                };
                open.metadata.clone_from(&request.two);
                (200, Vec::new())
            }
            "AgentDispatchService/ListDispatch" => {
                let Some(open) = state.rooms.get(room) else {
                    return (503, b"no response from servers".to_vec());
                };
                let agent_dispatches = open.dispatches.iter().map(Dispatch::of).collect();
                (200, Dispatches { agent_dispatches }.encode_to_vec())
            }
            _ => {
                let dispatched = state.dispatch(inner, &request);
                if state.lost_answers > 0 {
                    state.lost_answers -= 1;
                    return (503, Vec::new());
                }
                (200, Dispatch::of(&dispatched).encode_to_vec())
            }
        }
    }
}

impl State {
    fn list(&self, named: &[&String]) -> Listed {
        let found = named.iter().filter_map(|name| {
            let open = self.rooms.get(*name)?;
            Some(Room {
                sid: open.sid.clone(),
                name: (*name).clone(),
                metadata: open.metadata.clone(),
            })
        });
        Listed {
            rooms: found.collect(),
        }
    }

    fn dispatch(&mut self, inner: &Arc<Inner>, request: &Request) -> Dispatched {
        let mut wanted = job(&request.one, &request.three);
        let name = request.two.clone();
        let open = self.rooms.entry(name.clone()).or_insert_with(|| Open {
            sid: format!("RM_{}", nanos()),
            metadata: String::new(),
            there: BTreeMap::new(),
            dispatches: Vec::new(),
        });
        wanted.room = Some(Room {
            sid: open.sid.clone(),
            name,
            metadata: open.metadata.clone(),
        });
        let dispatched = Dispatched {
            id: wanted.dispatch_id.clone(),
            agent_name: request.one.clone(),
            metadata: request.three.clone(),
            created_at: nanos(),
        };
        open.dispatches.push(dispatched.clone());
        let inner = Arc::clone(inner);
        tokio::spawn(async move { inner.launch(&wanted).await });
        dispatched
    }
}

fn nanos() -> i64 {
    i64::try_from(since_epoch().as_nanos()).expect("before the year 2262")
}

/// Every request: its fields are texts, so it is read by their numbers.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    one: String,
    #[prost(string, tag = "2")]
    two: String,
    #[prost(string, tag = "3")]
    three: String,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    rooms: Vec<Room>,
}

#[derive(Clone, PartialEq, Message)]
struct Participants {
    #[prost(message, repeated, tag = "1")]
    participants: Vec<Participant>,
}

#[derive(Clone, PartialEq, Message)]
struct Participant {
    #[prost(string, tag = "2")]
    identity: String,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int32, tag = "14")]
    kind: i32,
    #[prost(btree_map = "string, string", tag = "15")]
    attributes: BTreeMap<String, String>,
}

impl Participant {
    fn of(identity: &str, there: &There) -> Self {
        let agent = there.agent.iter();
        Self {
            identity: identity.to_owned(),
            // Active.
            state: 2,
            kind: there.kind,
            attributes: agent
                .map(|(name, _)| ("lk.agent_name".to_owned(), name.clone()))
                .collect(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Dispatches {
    #[prost(message, repeated, tag = "1")]
    agent_dispatches: Vec<Dispatch>,
}

#[derive(Clone, PartialEq, Message)]
struct Dispatch {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    agent_name: String,
    #[prost(string, tag = "4")]
    metadata: String,
    #[prost(message, optional, tag = "5")]
    state: Option<DispatchState>,
}

#[derive(Clone, PartialEq, Message)]
struct DispatchState {
    #[prost(int64, tag = "2")]
    created_at: i64,
}

impl Dispatch {
    fn of(of: &Dispatched) -> Self {
        Self {
            id: of.id.clone(),
            agent_name: of.agent_name.clone(),
            metadata: of.metadata.clone(),
            state: Some(DispatchState {
                created_at: of.created_at,
            }),
        }
    }
}
