//! Rooms, as the server's API tells of them.

use segue_core::dispatch::{Dispatched, RoomAsk, RoomSeen};
use segue_core::names::Label;
use serde_json::json;

use super::metadata;
use super::request::{ApiError, call};
use crate::config::Config;
use crate::proto::api::{
    AgentDispatch, AgentDispatchState, CreateAgentDispatchRequest, ListAgentDispatchRequest,
    ListAgentDispatchResponse, ListParticipantsRequest, ListParticipantsResponse, ListRoomsRequest,
    ListRoomsResponse, ParticipantInfo, ParticipantKind, ParticipantState, Room,
    UpdateRoomMetadataRequest,
};
use crate::proto::{Malformed, Message};

/// The attribute by which the server says an agent's name.
const AGENT_NAME: &str = "lk.agent_name";

/// Looks who is in a room.
pub(super) async fn look(config: &Config, ask: &RoomAsk) -> RoomSeen {
    match look_for(config, ask).await {
        Ok(seen) => seen,
        Err(ApiError::NoRoom) => RoomSeen::Closed,
        Err(error) => {
            tracing::warn!(job = %ask.job, room = ask.room, %error, "it is not known who is in a room");
            RoomSeen::Unknown
        }
    }
}

async fn look_for(config: &Config, ask: &RoomAsk) -> Result<RoomSeen, ApiError> {
    if find(config, &ask.room).await?.sid != ask.again.sid {
        return Ok(RoomSeen::Closed);
    }
    // Whoever configures the agent no more wants none.
    let Some(name) = agent_name(config, ask) else {
        return Ok(RoomSeen::Closed);
    };
    let may = admin(&ask.room);
    let whose = ListParticipantsRequest {
        room: ask.room.clone(),
        ..Default::default()
    };
    let listed: ListParticipantsResponse =
        call(config, "RoomService", "ListParticipants", &may, &whose).await?;
    let mut there: Vec<ParticipantInfo> = all(&listed.participants)?;
    there.retain(|one| one.state != ParticipantState::Disconnected);
    let is_caller = |one: &ParticipantInfo| {
        !matches!(one.kind, ParticipantKind::Agent | ParticipantKind::Egress)
    };
    let callers = there.iter().any(is_caller);
    if there.iter().any(|one| one.identity == ask.again.identity) {
        let agent = true;
        return Ok(RoomSeen::Open { agent, callers });
    }
    let is_ours = |one: &ParticipantInfo| {
        one.kind == ParticipantKind::Agent
            && one.attributes.get(AGENT_NAME).is_some_and(|of| of == name)
    };
    if there.iter().any(is_ours) {
        return Ok(RoomSeen::Answered);
    }
    let which = ListAgentDispatchRequest {
        room: ask.room.clone(),
        ..Default::default()
    };
    let service = "AgentDispatchService";
    let listed: ListAgentDispatchResponse =
        call(config, service, "ListDispatch", &may, &which).await?;
    let mut dispatches = Vec::new();
    for dispatch in all::<AgentDispatch>(&listed.agent_dispatches)? {
        let state = AgentDispatchState::decode(&dispatch.state)?;
        if state.deleted_at == 0 {
            dispatches.push((dispatch, state.created_at));
        }
    }
    let ours = dispatches
        .iter()
        .find(|(of, _)| of.id == ask.again.dispatch);
    let Some((_, since)) = ours else {
        return Ok(RoomSeen::Closed);
    };
    let is_newer = |(of, at): &(AgentDispatch, i64)| of.agent_name == name && at > since;
    if dispatches.iter().any(is_newer) {
        return Ok(RoomSeen::Asked { callers });
    }
    let agent = false;
    Ok(RoomSeen::Open { agent, callers })
}

/// Asks for another agent.
pub(super) async fn dispatch(config: &Config, ask: &RoomAsk) -> Dispatched {
    // An empty name would be every worker that takes jobs of all rooms.
    let Some(name) = agent_name(config, ask) else {
        return Dispatched::Refused;
    };
    let wanted = CreateAgentDispatchRequest {
        agent_name: name.to_owned(),
        room: ask.room.clone(),
        metadata: ask.again.metadata.clone(),
        ..Default::default()
    };
    let service = "AgentDispatchService";
    let made: Result<AgentDispatch, _> = call(
        config,
        service,
        "CreateDispatch",
        &admin(&ask.room),
        &wanted,
    )
    .await;
    match made {
        Ok(_) => Dispatched::Made,
        Err(error) => {
            tracing::warn!(job = %ask.job, room = ask.room, %error, "a room is not dispatched again");
            match error {
                ApiError::Status { status: 404, .. } => Dispatched::Refused,
                other if other.is_passing() => Dispatched::Unknown,
                _ => Dispatched::Refused,
            }
        }
    }
}

/// Writes the release into a room's metadata, beside what is there.
pub(super) async fn label(config: &Config, name: &str, label: &Label) -> Result<(), ApiError> {
    let before = find(config, name).await?.metadata;
    let metadata = metadata::with_release(&before, label).ok_or(ApiError::NoObject)?;
    if metadata == before {
        return Ok(());
    }
    let update = UpdateRoomMetadataRequest {
        room: name.to_owned(),
        metadata,
        ..Default::default()
    };
    let method = "UpdateRoomMetadata";
    let _: Room = call(config, "RoomService", method, &admin(name), &update).await?;
    Ok(())
}

async fn find(config: &Config, name: &str) -> Result<Room, ApiError> {
    let may = json!({ "roomList": true });
    let wanted = ListRoomsRequest {
        names: vec![name.to_owned()],
        ..Default::default()
    };
    let listed: ListRoomsResponse = call(config, "RoomService", "ListRooms", &may, &wanted).await?;
    let rooms: Vec<Room> = all(&listed.rooms)?;
    let found = rooms.into_iter().find(|room| room.name == name);
    found.ok_or(ApiError::NoRoom)
}

/// What a token for one room says.
fn admin(room: &str) -> serde_json::Value {
    json!({ "roomAdmin": true, "room": room })
}

fn agent_name<'a>(config: &'a Config, ask: &RoomAsk) -> Option<&'a str> {
    let of = config.agents.get(&ask.agent)?;
    Some(&of.agent_name)
}

fn all<M: Message>(list: &[Vec<u8>]) -> Result<Vec<M>, Malformed> {
    list.iter().map(|bytes| M::decode(bytes)).collect()
}
