//! The end of a gateway process: it gives everything to another one, or it drains.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::Signal;
use tokio::time::{interval, timeout};

use crate::clock;
use crate::front::Front;
use crate::handoff::{self, Giving, HandoffError, Header, Last, NotGiven};
use crate::journal;
use crate::low;
use crate::relay::{LiveCall, Relay};
use crate::run::{Gateway, blocking};
use crate::setup::{HOLD_MAX, take_down};

/// How long a giver waits for callers of whom nothing is decided yet and who cannot move: they are
/// within a TLS handshake, or within the body of a request. It decides nothing behind this. New
/// connections wait meanwhile; live calls flow on.
const SETTLE: Duration = Duration::from_millis(500);

/// How often a draining gateway says what it waits for.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// How long the last report may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

impl Gateway {
    /// Hands everything to a gateway that asks. False: we go on serving.
    pub(crate) async fn offer(&mut self, stream: tokio::net::UnixStream) -> bool {
        let socket = self.config.handoff_socket();
        let greeted = blocking(move || Giving::greet(stream.into_std()?, &socket));
        let giving = match greeted.await {
            Ok(giving) => giving,
            Err(error) => {
                tracing::warn!(%error, "a takeover is refused");
                return false;
            }
        };
        tracing::info!("handing over");
        // While new connections are taken: a controller that is stuck keeps none of them waiting.
        if let Some(link) = self.link.take() {
            link.stop(GOODBYE_TIMEOUT).await;
        }
        if let Some(accepting) = self.accepting.take() {
            accepting.stop(SETTLE).await;
        }
        // Who has not said yet what it wants goes along, unless its keys are here.
        self.front.recall();
        let mut undecided = self.front.undecided();
        let _ = timeout(SETTLE, undecided.wait_for(|undecided| *undecided == 0)).await;
        match self.hand_over(giving).await {
            Ok(giving) => {
                self.taker = Some(giving);
                let life = self.reporter.life().after_handoff();
                *self.reporter.life() = life;
                if *self.ledger.open().borrow() > 0 || self.ledger.has_untold() {
                    let journal = journal::aside::name(&self.config.journal_file());
                    if let Err(error) = self.ledger.journal(&journal) {
                        tracing::error!(%error, "calls are not journaled");
                    }
                    self.journal = Some(journal);
                    self.report(false);
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "the handoff failed; going on");
                self.front.let_on();
                if let Err(error) = self.accept() {
                    tracing::error!(%error, "no new calls can be taken; trying again");
                    self.is_found = false;
                }
                self.report(true);
                false
            }
        }
    }

    async fn hand_over(&self, giving: Giving) -> Result<Giving, HandoffError> {
        let listener = self.listener.try_clone()?;
        let (relay, ledger) = (Arc::clone(&self.relay), Arc::clone(&self.ledger));
        let life = self.reporter.life().clone();
        let keeping = Arc::clone(&self.keeping);
        blocking(move || {
            // What the taker is told of us and the keeper stays so until it has our calls.
            let _still = keeping.still();
            handoff::fail::at("settled")?;
            // What is decided behind this would be known to nobody, so nothing is; what ends
            // behind it is told with the calls.
            let header = Header {
                incarnation: life.incarnation,
                sequence: life.sequence,
                ledger: ledger.seal(clock::now()),
                wards: keeping.wards(),
            };
            let ahead = match low::unhurried(|| giving.prepare(&listener, header, &relay)) {
                Ok(ahead) => ahead,
                Err(error) => {
                    ledger.unseal();
                    return Err(error);
                }
            };
            let stopped = Instant::now();
            let calls = relay.give_all();
            let late = ledger.late();
            let ended = late.len();
            let last = Last {
                calls: calls.len(),
                late,
            };
            match giving.hand_over(&calls, &ahead, last) {
                Ok(()) => {
                    let (count, still) = (calls.len(), stopped.elapsed());
                    if giving.is_to_another() && *ledger.open().borrow() <= count + ended {
                        low::step_aside();
                    }
                    tracing::info!(calls = count, ?still, "handed over");
                    // The taker journals what is its own now; what stays with us it has as pins.
                    ledger.leave_journal();
                    calls.into_iter().for_each(LiveCall::given);
                    ledger.handed_over(ended);
                    keeping.give();
                    Ok(giving)
                }
                Err(NotGiven { error, theirs }) => {
                    if let Some(theirs) = theirs {
                        let held: Vec<_> = calls.iter().filter_map(LiveCall::to_hold).collect();
                        keeping.renew(theirs, &held, &mut { HOLD_MAX });
                    }
                    for call in calls {
                        relay.adopt(call);
                    }
                    if theirs.is_some() {
                        // Those, too, that were in nobody's hands just then.
                        relay.hold_all();
                    }
                    ledger.unseal();
                    Err(error)
                }
            }
        })
        .await
    }

    /// Relays until nothing is left, for as long as that takes.
    pub(crate) async fn drain(mut self, given: bool, hangup: &mut Signal) {
        // Whoever takes new calls looks after them now.
        self.aside.abort();
        if let Some(accepting) = self.accepting.take() {
            accepting.stop(SETTLE).await;
        }
        if !given {
            // They connected while we still listened.
            self.front.accept_waiting(&self.listener);
        }
        if !given {
            take_down(&self.config, &self.listener);
        }
        if !given {
            // The keeper holds it, too, and must not go on listening for us. Its only error is that
            // nobody listens any more.
            let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
            self.keeping.close();
        }
        // Who calls now is refused at once and may find another gateway. If this listener was
        // given, the other process holds it open.
        drop(self.listener);
        let (mut calls, mut guests) = (self.ledger.open(), self.front.open());
        let mut status = interval(STATUS_EVERY);
        let mut taker = self.taker.take();
        loop {
            guests.mark_unchanged();
            if let Some(giving) = taker.take() {
                taker = give_late(giving, &self.front, &self.relay).await;
            }
            let is_giving = taker.is_some();
            let mut more = guests.clone();
            let empty = async {
                // The senders live as long as we do.
                let _ = guests.wait_for(|open| *open == 0).await;
                let _ = calls.wait_for(|open| *open == 0).await;
            };
            tokio::select! {
                // Whatever was being set up is a call now, or gone.
                Ok(()) = more.changed(), if is_giving => {}
                () = empty => {
                    if *self.front.open().borrow() == 0 && *self.ledger.open().borrow() == 0 {
                        break;
                    }
                }
                _ = status.tick() => {
                    let calls = *self.ledger.open().borrow();
                    tracing::info!(calls, "draining; ends with the last call");
                }
                Some(()) = hangup.recv() => {}
            }
        }
        if given {
            self.ledger.forget_pins();
            self.ledger.leave_journal();
            if let Some(journal) = self.journal.take() {
                // Nothing is lost in it; else whoever takes calls removes it.
                let _ = std::fs::remove_file(journal);
            }
        } else {
            let ledger = Arc::clone(&self.ledger);
            blocking(move || ledger.close_journal()).await;
        }
        if let Some(link) = self.link.take() {
            link.stop(GOODBYE_TIMEOUT).await;
        }
        self.keeping.bye();
        self.health.abort();
        let log = self.log.clone();
        blocking(move || log.flush()).await;
        tracing::info!("ended; no call was open");
    }
}

/// Gives the taker what has come since it took over, if it can move. Answers who is to have what
/// comes next: nobody, once nothing is being set up any more.
async fn give_late(giving: Giving, front: &Arc<Front>, relay: &Arc<Relay>) -> Option<Giving> {
    // Asked before: what is set up meanwhile wakes us again.
    let is_last = *front.open().borrow() == 0;
    let (front, relay) = (Arc::clone(front), Arc::clone(relay));
    blocking(move || {
        let parked = front.take_parked();
        if let Err(error) = giving.give_guests(&parked) {
            tracing::warn!(%error, callers = parked.len(), "callers cannot be handed over");
            return None;
        }
        let mut calls = relay.give_all().into_iter();
        while let Some(call) = calls.next() {
            if let Err(error) = giving.give_late(&call) {
                tracing::warn!(%error, "what stands late stays here");
                let stay = std::iter::once(call).chain(calls);
                stay.for_each(|call| relay.adopt(call));
                return None;
            }
            call.given();
        }
        (!is_last).then_some(giving)
    })
    .await
}
