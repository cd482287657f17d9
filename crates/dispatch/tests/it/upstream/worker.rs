//! A worker as the server sees it: what it reported, what it is asked, what it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::Message;

use crate::key;
use crate::wire::{
    Answer, Assignment, FromServer, Job, JobState, JobStatus, JobType, Offer, Register,
    WorkerStatus,
};

use super::record::{Event, Loss, Records};

/// How long an offer may stay unanswered. Of a whole request's three seconds it is never reached.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an agent's token is good.
const TOKEN_LIFE_S: u64 = 3_600;

/// What must be equal for a job to reach a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) agent_name: String,
    pub(crate) namespace: String,
    pub(crate) kind: i32,
    pub(crate) deployment: String,
}

impl Key {
    pub(super) fn of(with: &Register) -> Self {
        Self {
            agent_name: with.agent_name.clone(),
            namespace: with.namespace.clone().unwrap_or_default(),
            kind: with.kind,
            deployment: with.deployment.clone(),
        }
    }

    pub(super) fn of_job(job: &Job) -> Self {
        Self {
            agent_name: job.agent_name.clone(),
            namespace: job.namespace.clone(),
            kind: job.kind,
            deployment: job.deployment.clone(),
        }
    }
}

/// How an offer ended.
pub(super) enum Assigned {
    /// The worker has the job, and this is who its agent will be.
    Running { identity: String },
    /// It refused for all.
    Terminated,
    /// Another one may be asked.
    Refused,
    /// Nobody else will be asked.
    Lost(Loss),
}

pub(super) struct Worker {
    pub(super) id: String,
    pub(super) key: Key,
    pub(super) told: Mutex<Told>,
    pub(super) closed: watch::Sender<bool>,
    /// Told to have its connection cut.
    pub(super) cut: Notify,
    pub(super) out: mpsc::UnboundedSender<Message>,
    pub(super) running: Mutex<HashMap<String, Job>>,
    offers: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
}

/// What it last said of itself; before it has, it counts as available and idle.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) status: WorkerStatus,
    pub(super) load: f32,
}

impl Worker {
    pub(super) fn new(id: &str, with: &Register, out: mpsc::UnboundedSender<Message>) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            key: Key::of(with),
            told: Mutex::new(Told {
                status: WorkerStatus::Available,
                load: 0.0,
            }),
            closed: watch::Sender::new(false),
            cut: Notify::new(),
            out,
            running: Mutex::default(),
            offers: Mutex::default(),
        })
    }

    /// Sends; whether it arrives is not this side's to know.
    pub(super) fn send(&self, message: FromServer) {
        let _ = self.out.send(Message::Binary(message.frame().into()));
    }

    /// Offers it a job, and gives it if it wants it.
    pub(super) async fn assign(&self, records: &Records, mut job: Job) -> Assigned {
        let (answer, answered) = oneshot::channel();
        {
            let mut offers = self.offers.lock().unwrap();
            if offers.contains_key(&job.id) {
                return Assigned::Lost(Loss::Duplicate);
            }
            offers.insert(job.id.clone(), answer);
        }
        let _end = OnOffer(self, job.id.clone());
        let now = i64::try_from(since_epoch().as_nanos()).expect("before the year 2262");
        job.state = Some(JobState {
            status: JobStatus::Running.into(),
            started_at: now,
            updated_at: now,
            worker_id: self.id.clone(),
        });
        let bytes = job.encode_to_vec();
        records.add(Event::Offered {
            job: job.id.clone(),
            worker: self.id.clone(),
            bytes: bytes.clone(),
        });
        self.send(FromServer::Availability(Offer { job: bytes.clone() }));
        let mut closed = self.closed.subscribe();
        let answer = tokio::select! {
            answer = answered => answer.expect("the table of offers holds it until it is used"),
            _ = closed.wait_for(|closed| *closed) => return Assigned::Refused,
            () = tokio::time::sleep(ASSIGN_TIMEOUT) => return Assigned::Lost(Loss::TimedOut),
        };
        let (id, worker) = (job.id.clone(), self.id.clone());
        if answer.terminate {
            records.add(Event::Satisfied { job: id, worker });
            return Assigned::Terminated;
        }
        if !answer.available {
            return Assigned::Refused;
        }
        let token = self.token(&job, &answer);
        self.send(FromServer::Assignment(Assignment {
            job: bytes,
            url: None,
            token: token.clone(),
        }));
        self.running.lock().unwrap().insert(id.clone(), job);
        records.add(Event::Assigned {
            job: id,
            worker,
            identity: answer.identity.clone(),
            token,
        });
        Assigned::Running {
            identity: answer.identity,
        }
    }

    /// Takes an answer. False: nobody waits for it any more.
    pub(super) fn answered(&self, answer: Answer) -> bool {
        let offer = self.offers.lock().unwrap().remove(&answer.job_id);
        offer.is_some_and(|offer| offer.send(answer).is_ok())
    }

    /// Takes a job's status. False: it is not one of its jobs, as far as the server knows.
    pub(super) fn updated(&self, job: &str, status: JobStatus) -> bool {
        let mut running = self.running.lock().unwrap();
        match status {
            JobStatus::Success | JobStatus::Failed => running.remove(job).is_some(),
            JobStatus::Pending | JobStatus::Running => running.contains_key(job),
        }
    }

    fn token(&self, job: &Job, answer: &Answer) -> String {
        let now = since_epoch().as_secs();
        let room = job.room.as_ref().map_or("", |room| &room.name);
        let mut attributes = json!(answer.attributes);
        attributes["lk.agent_name"] = json!(self.key.agent_name);
        key::sign(&json!({
            "iss": key::KEY, "sub": answer.identity, "name": answer.name,
            "nbf": now, "exp": now + TOKEN_LIFE_S, "kind": "agent",
            "metadata": answer.metadata, "attributes": attributes,
            "video": {
                "roomJoin": true, "agent": true, "room": room,
                "canPublish": true, "canSubscribe": true, "canPublishData": true,
            },
        }))
    }
}

/// While a job is on offer. However the offer ends, an answer that comes later is of an unknown job.
struct OnOffer<'a>(&'a Worker, String);

impl Drop for OnOffer<'_> {
    fn drop(&mut self) {
        self.0.offers.lock().unwrap().remove(&self.1);
    }
}

/// What this server calls room jobs, unless it is told otherwise.
pub(crate) const ROOM: i32 = JobType::Room as i32;

pub(super) fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
}
