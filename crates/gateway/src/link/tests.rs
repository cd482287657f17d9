use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use segue_core::link::CallOutcome;
use segue_core::plane::Told;
use segue_core::time::Timestamp;
use tokio::net::UnixListener;

use super::*;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

static SOCKETS: AtomicU32 = AtomicU32::new(0);

/// A dispatcher that has only events and ended calls.
#[derive(Default)]
struct Teller {
    events: Mutex<Vec<PlaneEvent>>,
    ended: Mutex<Vec<CallRecord>>,
}

impl Teller {
    fn end(&self, call: &str) {
        self.ended.lock().unwrap().push(CallRecord {
            call: call.parse().unwrap(),
            agent: "desk".parse().unwrap(),
            release: ReleaseId::of(b"v1"),
            worker: None,
            started: Timestamp(1),
            ended: Timestamp(2),
            setup_ms: None,
            outcome: CallOutcome::Completed,
            cause: String::new(),
            reason: "split".to_owned(),
            bytes_in: 0,
            bytes_out: 0,
            traceparent: None,
            rescued: None,
        });
    }

    fn tell(&self, at: u64) {
        let what = Told::MembershipRefused {
            document: "manifest".to_owned(),
            reason: "signature".to_owned(),
            message: String::new(),
        };
        self.events.lock().unwrap().push(PlaneEvent {
            at: Timestamp(at),
            agent: "desk".parse().unwrap(),
            times: 1,
            what,
        });
    }
}

impl Linked for Teller {
    fn gateway(&self) -> GatewayId {
        "gw-1".parse().unwrap()
    }

    fn report(&self) -> Presence {
        Presence {
            gateway: self.gateway(),
            incarnation: "one".to_owned(),
            sequence: 1,
            agents: std::collections::BTreeMap::new(),
        }
    }

    fn install(&self, _: Box<RoutingTable>) {}
    fn keep_agents(&self, _: &[AgentName]) {}
    fn end_calls(&self, _: AgentName, _: (ReleaseId, Epoch), _: Vec<CallId>) {}

    fn list_calls(&self, _: Option<&AgentName>, _: usize) -> Vec<CallInfo> {
        Vec::new()
    }

    fn holds_calls(&self) -> bool {
        true
    }

    fn take_ended(&self) -> (Vec<CallRecord>, u64) {
        (std::mem::take(&mut *self.ended.lock().unwrap()), 0)
    }

    fn put_back_ended(&self, mut records: Vec<CallRecord>) {
        let mut waiting = self.ended.lock().unwrap();
        records.append(&mut waiting);
        *waiting = records;
    }

    fn take_events(&self, _: bool) -> (Vec<PlaneEvent>, u64) {
        (std::mem::take(&mut *self.events.lock().unwrap()), 0)
    }

    fn put_back_events(&self, mut events: Vec<PlaneEvent>) {
        let mut waiting = self.events.lock().unwrap();
        events.append(&mut waiting);
        *waiting = events;
    }
}

/// A controller's end of one link.
struct Peer {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Peer {
    async fn accept(listener: &UnixListener, acknowledges: bool) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let (reader, writer) = stream.into_split();
        let lines = BufReader::new(reader).lines();
        let mut peer = Self { lines, writer };
        peer.say(&ToGateway::Hello {
            version: LINK_VERSION,
            acknowledges,
        })
        .await;
        peer
    }

    async fn say(&mut self, message: &ToGateway) {
        let mut line = serde_json::to_vec(message).unwrap();
        line.push(b'\n');
        self.writer.write_all(&line).await.unwrap();
    }

    /// The next batch of either kind.
    async fn batch(&mut self) -> ToController {
        let read = async {
            loop {
                let line = self.lines.next_line().await.unwrap().unwrap();
                let message = serde_json::from_str(&line).unwrap();
                if let ToController::Events { .. } | ToController::Ended { .. } = message {
                    return message;
                }
            }
        };
        timeout(PATIENCE, read).await.unwrap()
    }

    /// When the events of the next batch happened.
    async fn events(&mut self) -> Vec<u64> {
        match self.batch().await {
            ToController::Events { events, .. } => events.iter().map(|event| event.at.0).collect(),
            other => panic!("no events: {other:?}"),
        }
    }

    /// The calls of the next batch.
    async fn ended(&mut self) -> Vec<String> {
        match self.batch().await {
            ToController::Ended { calls, .. } => {
                calls.iter().map(|ended| ended.call.to_string()).collect()
            }
            other => panic!("no calls: {other:?}"),
        }
    }
}

fn linked() -> (UnixListener, Arc<Teller>, watch::Sender<bool>) {
    let number = SOCKETS.fetch_add(1, Ordering::Relaxed);
    let name = format!("segue-link-{}-{number}", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let teller = Arc::new(Teller::default());
    let link = Link {
        socket,
        linked: Arc::clone(&teller) as Arc<dyn Linked>,
        tables: None,
    };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(link.run(stopped));
    (listener, teller, stop)
}

#[tokio::test]
async fn what_a_controller_died_before_it_read_is_told_again() {
    let (listener, teller, _stop) = linked();
    teller.tell(1);
    let mut peer = Peer::accept(&listener, true).await;
    assert_eq!(peer.events().await, [1]);
    drop(peer);
    let mut peer = Peer::accept(&listener, true).await;
    teller.tell(2);
    assert_eq!(peer.events().await[0], 1, "it never said that it has it");
    teller.tell(3);
    peer.say(&ToGateway::Read { batches: 1 }).await;
    let next = peer.events().await;
    assert_eq!(next.last(), Some(&3), "what came meanwhile comes next");
    assert_ne!(next[0], 1);
    drop(peer);
    let mut peer = Peer::accept(&listener, true).await;
    assert_eq!(peer.events().await, next, "and nothing that was read");
}

#[tokio::test]
async fn a_controller_that_does_not_say_what_it_read_is_not_waited_for() {
    let (listener, teller, _stop) = linked();
    teller.tell(1);
    let mut peer = Peer::accept(&listener, false).await;
    assert_eq!(peer.events().await, [1]);
    teller.tell(2);
    assert_eq!(peer.events().await, [2], "on the same link");
    drop(peer);
    let mut peer = Peer::accept(&listener, false).await;
    teller.tell(3);
    assert_eq!(
        peer.events().await,
        [3],
        "told once, as far as it can be known"
    );
}

/// A controller counts what it cannot read, and both kinds as one: what it left out does not come
/// again, and does not hold up the other kind.
#[tokio::test]
async fn calls_and_events_are_counted_as_one() {
    let (listener, teller, _stop) = linked();
    let mut peer = Peer::accept(&listener, true).await;
    teller.end("a");
    assert_eq!(peer.ended().await, ["a"]);
    teller.tell(1);
    assert_eq!(peer.events().await, [1]);
    teller.end("b");
    teller.tell(2);
    // Of the first only: the events wait.
    peer.say(&ToGateway::Read { batches: 1 }).await;
    assert_eq!(peer.ended().await, ["b"]);
    peer.say(&ToGateway::Read { batches: 2 }).await;
    assert_eq!(peer.events().await, [2]);
    peer.say(&ToGateway::Read { batches: 3 }).await;
    teller.end("c");
    assert_eq!(peer.ended().await, ["c"]);
    drop(peer);
    let mut peer = Peer::accept(&listener, true).await;
    assert_eq!(peer.ended().await, ["c"], "not what was read");
    assert_eq!(peer.events().await, [2]);
}
