//! A worker that only speaks the protocol: as many as a test wants, and as odd as it wants them.
//!
//! It does what a worker in Python does (`direct.rs` compares the two): registers, names its live
//! jobs, says how it is, answers offers, says when a job runs and when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::SplitStream;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::key;
use crate::upstream::PATIENCE;
use crate::wire::{
    Answer, Assignment, FromServer, FromWorker, Job, JobStatus, MigrateJob, Register,
    ServerMessage, UpdateJob, UpdateWorker, WorkerStatus,
};

/// A connection to something that serves workers.
pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How it answers an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "for tests of the dispatcher")]
pub(crate) enum Reply {
    Accept,
    Refuse,
    /// Refuses, and nobody else is to be asked.
    Terminate,
    Silence,
    /// Accepts so much later.
    Late(Duration),
    /// Accepts, and drops its connection at once.
    AcceptAndDrop,
}

/// How to make one.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Without `/agent`.
    pub(crate) url: String,
    pub(crate) register: Register,
    pub(crate) reply: Reply,
    pub(crate) load: f32,
    /// How long its jobs take; `None`: until the test ends them.
    pub(crate) lasts: Option<Duration>,
    /// It says nothing of its jobs, as LiveKit's library for Node.
    pub(crate) mute: bool,
}

impl Plan {
    pub(crate) fn new(url: &str, agent_name: &str) -> Self {
        Self {
            url: url.to_owned(),
            register: Register {
                version: "1.8.9".to_owned(),
                agent_name: agent_name.to_owned(),
                // can_publish, can_subscribe, can_publish_data, can_update_metadata, agent.
                permissions: Some(vec![8, 1, 16, 1, 24, 1, 80, 1, 88, 1]),
                ..Register::default()
            },
            reply: Reply::Accept,
            load: 0.1,
            lasts: None,
            mute: false,
        }
    }
}

/// What happened to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    Registered(String),
    Offered(Vec<u8>),
    Assigned(Assignment),
    Terminated(String),
    /// Its ping was answered, with this time of its own.
    Pong(i64),
    /// Its connection ended; the code of the close frame, if there was one.
    Closed(Option<u16>),
}

#[allow(dead_code, reason = "for tests of the dispatcher")]
enum Order {
    Status,
    Send(FromWorker),
    Bytes(Message),
    /// Ends the connection without a word, or with a close frame.
    Drop,
    Close,
}

/// A worker with one connection. Dropping it drops the connection.
pub(crate) struct Sim {
    orders: mpsc::UnboundedSender<Order>,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

struct Inner {
    lasts: Option<Duration>,
    mute: bool,
    state: Mutex<State>,
    seen: watch::Sender<Vec<Seen>>,
}

struct State {
    reply: Reply,
    load: f32,
    status: WorkerStatus,
    /// Accepted, and not yet assigned.
    accepted: BTreeSet<String>,
    jobs: BTreeMap<String, Assignment>,
}

/// Connects as a worker, and says nothing yet.
///
/// # Errors
///
/// What refused it.
pub(crate) async fn connect(url: &str) -> Result<Socket, Box<Error>> {
    connect_as(url, &key::of_worker()).await
}

/// Connects with any token.
pub(crate) async fn connect_as(url: &str, token: &str) -> Result<Socket, Box<Error>> {
    let mut request = format!("{url}/agent").into_client_request()?;
    let bearer = format!("Bearer {token}");
    let bearer = bearer.parse().expect("a token is a header's value");
    request.headers_mut().insert("authorization", bearer);
    let (socket, _) = tokio_tungstenite::connect_async_with_config(request, None, true).await?;
    Ok(socket)
}

/// The status with which a connection is refused.
pub(crate) async fn refused(url: &str) -> u16 {
    match connect(url).await.map_err(|error| *error) {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[allow(dead_code, reason = "for tests of the dispatcher")]
impl Sim {
    /// Connects and registers, with nothing to report.
    pub(crate) async fn start(plan: &Plan) -> Self {
        Self::start_with(plan, BTreeMap::new()).await
    }

    /// The worker lost its connection, or whoever was at its other end: a new one, with its jobs.
    pub(crate) async fn reconnect(self, plan: &Plan) -> Self {
        let jobs = self.inner.state.lock().unwrap().jobs.clone();
        drop(self);
        Self::start_with(plan, jobs).await
    }

    async fn start_with(plan: &Plan, jobs: BTreeMap<String, Assignment>) -> Self {
        let socket = connect(&plan.url).await.unwrap();
        let (orders, queue) = mpsc::unbounded_channel();
        let send = |message| {
            let _ = orders.send(Order::Send(message));
        };
        send(FromWorker::Register(plan.register.clone()));
        if !jobs.is_empty() {
            let job_ids = jobs.keys().cloned().collect();
            send(FromWorker::MigrateJob(MigrateJob { job_ids }));
        }
        let _ = orders.send(Order::Status);
        let inner = Arc::new(Inner {
            lasts: plan.lasts,
            mute: plan.mute,
            state: Mutex::new(State {
                reply: plan.reply,
                load: plan.load,
                status: WorkerStatus::Available,
                accepted: BTreeSet::new(),
                jobs,
            }),
            seen: watch::Sender::new(Vec::new()),
        });
        let task = tokio::spawn(run(socket, queue, orders.clone(), Arc::clone(&inner)));
        let sim = Self {
            orders,
            inner,
            task,
        };
        let registered = |seen: &Seen| matches!(seen, Seen::Registered(_));
        sim.until("it is registered", registered).await;
        sim
    }

    /// From now on it answers so.
    pub(crate) fn reply(&self, reply: Reply) {
        self.inner.state.lock().unwrap().reply = reply;
    }

    /// Reports how loaded it is.
    pub(crate) fn load(&self, load: f32) {
        self.inner.state.lock().unwrap().load = load;
        self.order(Order::Status);
    }

    /// As on SIGTERM: it says FULL with no load, refuses, and finishes its jobs.
    pub(crate) fn drain(&self) {
        let mut state = self.inner.state.lock().unwrap();
        (state.status, state.load, state.reply) = (WorkerStatus::Full, 0.0, Reply::Refuse);
        drop(state);
        self.order(Order::Status);
    }

    /// A job of its is over.
    pub(crate) fn end(&self, job: &str, status: JobStatus) {
        let was = self.inner.state.lock().unwrap().jobs.remove(job);
        assert!(was.is_some(), "{job} is none of its jobs");
        self.send(update(job, status));
    }

    pub(crate) fn send(&self, message: FromWorker) {
        self.order(Order::Send(message));
    }

    /// Any frame, sense or none.
    pub(crate) fn send_frame(&self, frame: Message) {
        self.order(Order::Bytes(frame));
    }

    /// Ends its connection, without a word.
    pub(crate) fn disconnect(&self) {
        self.order(Order::Drop);
    }

    /// Closes its connection as a worker does that has finished.
    pub(crate) fn close(&self) {
        self.order(Order::Close);
    }

    /// The jobs it has.
    pub(crate) fn jobs(&self) -> Vec<String> {
        let state = self.inner.state.lock().unwrap();
        state.jobs.keys().cloned().collect()
    }

    /// All that happened to it.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.seen.borrow().clone()
    }

    /// Waits for something to happen to it.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.inner.seen.subscribe();
        let find = |list: &Vec<Seen>| list.iter().any(&is);
        let found = tokio::time::timeout(PATIENCE, seen.wait_for(find)).await;
        let list = found
            .unwrap_or_else(|_| panic!("{what} did not come true; it saw {:?}", self.seen()))
            .expect("its sender is ours");
        list.iter()
            .find(|one| is(one))
            .cloned()
            .expect("just found")
    }

    /// Waits for its assignment of a job.
    pub(crate) async fn assigned(&self, id: &str) -> Assignment {
        let of_job = |seen: &Seen| matches!(seen, Seen::Assigned(a) if job_id(&a.job) == id);
        match self.until(&format!("{id} is assigned to it"), of_job).await {
            Seen::Assigned(assignment) => assignment,
            _ => unreachable!("it was looked for"),
        }
    }

    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whose bytes these are.
pub(crate) fn job_id(bytes: &[u8]) -> String {
    Job::decode(bytes).expect("a job").id
}

async fn run(
    socket: Socket,
    mut queue: mpsc::UnboundedReceiver<Order>,
    orders: mpsc::UnboundedSender<Order>,
    inner: Arc<Inner>,
) {
    let (mut writer, mut reader) = socket.split();
    loop {
        let order = tokio::select! {
            order = queue.recv() => order.expect("a sender is kept here"),
            closed = read(&mut reader, &inner, &orders) => {
                return inner.saw(Seen::Closed(closed));
            }
        };
        let frame = match order {
            Order::Status => {
                let status = inner.state.lock().unwrap().status();
                Message::Binary(FromWorker::UpdateWorker(status).frame().into())
            }
            Order::Send(message) => Message::Binary(message.frame().into()),
            Order::Bytes(frame) => frame,
            Order::Drop => return inner.saw(Seen::Closed(None)),
            Order::Close => Message::Close(None),
        };
        // That it is closed is told by its other half.
        let _ = writer.send(frame).await;
    }
}

/// Reads until the connection ends; answers the code of its close frame. May be dropped between two
/// messages and called again.
async fn read(
    reader: &mut SplitStream<Socket>,
    inner: &Arc<Inner>,
    orders: &mpsc::UnboundedSender<Order>,
) -> Option<u16> {
    loop {
        let bytes = match reader.next().await {
            None | Some(Err(_)) => return None,
            Some(Ok(Message::Close(close))) => return close.map(|close| close.code.into()),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(_)) => continue,
        };
        let message = ServerMessage::decode(bytes).expect("what it is sent is well formed");
        match message.message.expect("of a known kind") {
            FromServer::Register(registered) => inner.saw(Seen::Registered(registered.worker_id)),
            FromServer::Availability(offer) => {
                let id = job_id(&offer.job);
                inner.saw(Seen::Offered(offer.job));
                answer(&id, inner, orders);
            }
            FromServer::Assignment(assignment) => {
                let id = job_id(&assignment.job);
                let mut state = inner.state.lock().unwrap();
                if state.accepted.remove(&id) {
                    state.jobs.insert(id.clone(), assignment.clone());
                    if !inner.mute {
                        let _ = orders.send(Order::Send(update(&id, JobStatus::Running)));
                    }
                    if let Some(lasts) = inner.lasts {
                        tokio::spawn(end_after(lasts, id, Arc::clone(inner), orders.clone()));
                    }
                }
                drop(state);
                inner.saw(Seen::Assigned(assignment));
            }
            FromServer::Pong(pong) => inner.saw(Seen::Pong(pong.last_timestamp)),
            FromServer::Termination(termination) => {
                inner.saw(Seen::Terminated(termination.job_id));
            }
        }
    }
}

fn answer(id: &str, inner: &Inner, orders: &mpsc::UnboundedSender<Order>) {
    let mut state = inner.state.lock().unwrap();
    let reply = state.reply;
    let accepts = matches!(reply, Reply::Accept | Reply::Late(_) | Reply::AcceptAndDrop);
    if accepts {
        state.accepted.insert(id.to_owned());
    }
    drop(state);
    let answer = FromWorker::Availability(Answer {
        job_id: id.to_owned(),
        available: accepts,
        name: "bot".to_owned(),
        identity: if accepts {
            format!("agent-{id}")
        } else {
            String::new()
        },
        terminate: reply == Reply::Terminate,
        ..Answer::default()
    });
    match reply {
        Reply::Silence => {}
        Reply::Late(after) => {
            let orders = orders.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let _ = orders.send(Order::Send(answer));
            });
        }
        Reply::Accept | Reply::Refuse | Reply::Terminate => {
            let _ = orders.send(Order::Send(answer));
        }
        Reply::AcceptAndDrop => {
            let _ = orders.send(Order::Send(answer));
            let _ = orders.send(Order::Drop);
        }
    }
}

/// A job that ends by itself, unless something else has ended it.
async fn end_after(
    lasts: Duration,
    id: String,
    inner: Arc<Inner>,
    orders: mpsc::UnboundedSender<Order>,
) {
    tokio::time::sleep(lasts).await;
    if inner.state.lock().unwrap().jobs.remove(&id).is_some() {
        let _ = orders.send(Order::Send(update(&id, JobStatus::Success)));
    }
}

fn update(id: &str, status: JobStatus) -> FromWorker {
    FromWorker::UpdateJob(UpdateJob {
        job_id: id.to_owned(),
        status: status.into(),
        error: String::new(),
    })
}

impl State {
    fn status(&self) -> UpdateWorker {
        UpdateWorker {
            status: Some(self.status.into()),
            load: self.load,
            job_count: u32::try_from(self.jobs.len()).expect("few"),
        }
    }
}

impl Inner {
    fn saw(&self, seen: Seen) {
        self.seen.send_modify(|list| list.push(seen));
    }
}
