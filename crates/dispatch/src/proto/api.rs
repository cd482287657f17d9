//! The messages of the server's API for rooms, as far as they are used here.

use std::collections::BTreeMap;

use super::wire::{enumeration, message};

enumeration! {
    /// How far a participant is.
    ParticipantState {
        /// Its socket is there.
        0 Joining,
        /// It said what it wants.
        1 Joined,
        /// Its media is there.
        2 Active,
        /// It is gone.
        3 Disconnected,
    }
}

enumeration! {
    /// What a participant is.
    ParticipantKind {
        /// A person, mostly.
        0 Standard,
        /// A stream that comes in.
        1 Ingress,
        /// A recording.
        2 Egress,
        /// A telephone.
        3 Sip,
        /// An agent.
        4 Agent,
    }
}

message! {
    /// Asks for rooms.
    ListRoomsRequest {
        /// Only these.
        1 names: Vec<String>,
    }
}

message! {
    /// Rooms.
    ListRoomsResponse {
        /// Each a [`Room`].
        1 rooms: Vec<Vec<u8>>,
    }
}

message! {
    /// A room.
    Room {
        /// Its identifier, which no other has.
        1 sid: String,
        /// Its name.
        2 name: String,
        /// Its metadata.
        8 metadata: String,
    }
}

message! {
    /// Asks who is in a room.
    ListParticipantsRequest {
        /// Which.
        1 room: String,
    }
}

message! {
    /// Who is there.
    ListParticipantsResponse {
        /// Each a [`ParticipantInfo`].
        1 participants: Vec<Vec<u8>>,
    }
}

message! {
    /// One who is there.
    ParticipantInfo {
        /// Its identity.
        2 identity: String,
        /// How far it is.
        3 state: ParticipantState,
        /// What it is.
        14 kind: ParticipantKind,
        /// What is said of it.
        15 attributes: BTreeMap<String, String>,
    }
}

message! {
    /// Sets a room's metadata.
    UpdateRoomMetadataRequest {
        /// Which room.
        1 room: String,
        /// All of it.
        2 metadata: String,
    }
}

message! {
    /// Asks for an agent.
    CreateAgentDispatchRequest {
        /// The name under which it is registered.
        1 agent_name: String,
        /// For which room.
        2 room: String,
        /// For the agent.
        3 metadata: String,
    }
}

message! {
    /// Asks which agents were asked for.
    ListAgentDispatchRequest {
        /// For which room.
        2 room: String,
    }
}

message! {
    /// Which agents were asked for.
    ListAgentDispatchResponse {
        /// Each an [`AgentDispatch`].
        1 agent_dispatches: Vec<Vec<u8>>,
    }
}

message! {
    /// An agent was asked for.
    AgentDispatch {
        /// Its identifier.
        1 id: String,
        /// The agent's name.
        2 agent_name: String,
        /// An [`AgentDispatchState`].
        5 state: Vec<u8>,
    }
}

message! {
    /// How far that is.
    AgentDispatchState {
        /// When, in nanoseconds.
        2 created_at: i64,
        /// When it was taken back, in nanoseconds.
        3 deleted_at: i64,
    }
}
