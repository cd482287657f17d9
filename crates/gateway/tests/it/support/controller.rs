//! A controller for tests: serves tables, collects reports.

use std::path::Path;
use std::sync::{Arc, Mutex};

use segue_core::link::{CallRecord, LINK_VERSION, ToController, ToGateway};
use segue_core::presence::{AgentPresence, Presence};
use segue_core::table::RoutingTable;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use super::soon;
use super::table::desk;

pub(crate) struct Controller {
    tables: Arc<Mutex<Vec<RoutingTable>>>,
    messages: broadcast::Sender<ToGateway>,
    heard: watch::Sender<Option<ToController>>,
    pub(crate) presence: watch::Receiver<Option<Presence>>,
    /// Records of ended calls, from all links.
    pub(crate) ended: watch::Receiver<Ended>,
    /// Links that were made, ever.
    pub(crate) links: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

/// What was told of calls that ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) records: Vec<CallRecord>,
    pub(crate) left_out: u64,
    /// Gateways that said goodbye.
    pub(crate) goodbyes: usize,
}

impl Controller {
    pub(crate) fn start(dir: &Path, table: RoutingTable) -> Self {
        let socket = dir.join("control.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let tables = Arc::new(Mutex::new(vec![table]));
        let (messages, _) = broadcast::channel(16);
        let (heard, _) = watch::channel(None);
        let (reports, presence) = watch::channel(None);
        let (serve_tables, serve_messages) = (Arc::clone(&tables), messages.clone());
        let serve_heard = heard.clone();
        let (ends, ended) = watch::channel(Ended::default());
        let (greeted, links) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let first = serve_tables.lock().unwrap().clone();
                let reports = reports.clone();
                let (messages, heard) = (serve_messages.subscribe(), serve_heard.clone());
                let ends = ends.clone();
                greeted.send_modify(|links| *links += 1);
                serving.spawn(serve(stream, first, messages, reports, heard, ends));
            }
        });
        Self {
            tables,
            messages,
            heard,
            presence,
            ended,
            links,
            task,
        }
    }

    /// Publishes a table without waiting for anyone.
    pub(crate) fn publish(&self, table: RoutingTable) {
        let message = ToGateway::Table(Box::new(table.clone()));
        self.tables.lock().unwrap().push(table);
        // Nobody is linked yet; who links later gets it first.
        let _ = self.messages.send(message);
    }

    /// Publishes a table and waits until the gateway acknowledges its epoch.
    pub(crate) async fn install(&mut self, table: RoutingTable) -> AgentPresence {
        let epoch = table.epoch;
        self.publish(table);
        self.report("an acknowledgement", |report| report.epoch >= epoch)
            .await
    }

    /// Says something to every gateway that is linked.
    pub(crate) fn tell(&self, message: ToGateway) {
        self.messages.send(message).unwrap();
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&self, question: ToGateway) -> ToController {
        self.heard.send_replace(None);
        let mut heard = self.heard.subscribe();
        self.messages.send(question).unwrap();
        let answer = soon("an answer", heard.wait_for(Option::is_some)).await;
        answer.unwrap().clone().unwrap()
    }

    /// Waits until the calls that ended are as wished.
    pub(crate) async fn ended(
        &mut self,
        what: &str,
        wished: impl Fn(&Ended) -> bool,
    ) -> Vec<CallRecord> {
        let ended = soon(what, self.ended.wait_for(wished)).await.unwrap();
        ended.records.clone()
    }

    /// The first report about `desk` from now on that is as wished.
    pub(crate) async fn report(
        &mut self,
        what: &str,
        wished: impl Fn(&AgentPresence) -> bool,
    ) -> AgentPresence {
        let fits = |presence: &Option<Presence>| {
            let report = presence.as_ref().and_then(|p| p.agents.get(&desk()));
            report.is_some_and(&wished)
        };
        let presence = soon(what, self.presence.wait_for(fits)).await.unwrap();
        presence.as_ref().unwrap().agents[&desk()].clone()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: UnixStream,
    first: Vec<RoutingTable>,
    mut messages: broadcast::Receiver<ToGateway>,
    reports: watch::Sender<Option<Presence>>,
    heard: watch::Sender<Option<ToController>>,
    ended: watch::Sender<Ended>,
) {
    let (reader, mut writer) = stream.into_split();
    let hello = ToGateway::Hello {
        version: LINK_VERSION,
        acknowledges: false,
    };
    let tables = first.into_iter().map(|t| ToGateway::Table(Box::new(t)));
    for message in std::iter::once(hello).chain(tables) {
        if writer.write_all(&line(&message)).await.is_err() {
            return;
        }
    }
    let mut lines = BufReader::new(reader).lines();
    loop {
        tokio::select! {
            Ok(message) = messages.recv() => {
                if writer.write_all(&line(&message)).await.is_err() {
                    return;
                }
            }
            read = lines.next_line() => {
                let Ok(Some(text)) = read else { return };
                match serde_json::from_str(&text).unwrap() {
                    // A process that stays for what it could not give reports under another name.
                    ToController::Presence(presence) if presence.gateway.as_str() != "gw-1" => {}
                    ToController::Presence(presence) => {
                        reports.send_replace(Some(presence));
                    }
                    ToController::Hello { version, .. } => assert_eq!(version, LINK_VERSION),
                    answer @ (ToController::Calls { .. }
                    | ToController::Workers { .. }
                    | ToController::Events { .. }) => {
                        heard.send_replace(Some(answer));
                    }
                    ToController::Goodbye => {
                        ended.send_modify(|ended| ended.goodbyes += 1);
                    }
                    ToController::Ended { calls, left_out } => {
                        ended.send_modify(|ended| {
                            ended.records.extend(calls);
                            ended.left_out = left_out;
                        });
                    }
                }
            }
        }
    }
}

fn line(message: &ToGateway) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap();
    line.push(b'\n');
    line
}
