//! The generator: makes calls through whatever listens, and says what became of them.
//!
//! One thread and one epoll. It is open loop: each call sends a frame in every period at a phase of its
//! own, whether or not the last one came back, and a frame is late from when it should have been
//! sent. A proxy that stalls therefore pays for every frame that it delayed, and not for one
//! (this is called coordinated omission where it is not done).
//!
//! The director tells it what to do, one line of JSON each, on standard input, and reads one line
//! back for each. It ends when the director does.

mod call;
mod flow;
mod orders;
mod rate;
mod slow;
mod stats;
mod transport;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use serde::{Deserialize, Serialize};

use self::call::Call;
use self::flow::Flow;
pub(crate) use self::flow::PERIOD_NS;
pub(crate) use self::orders::{Order, Reply};
use self::rate::Rate;
use self::slow::Slow;
pub(crate) use self::stats::Stats;
use self::transport::Identity;
pub(crate) use self::transport::NAME as TLS_NAME;
use crate::poller::{Clock, EventFlags, Poller};

/// Calls that are being set up at once, so that no proxy is asked for more than its backlog holds.
const OPENING_MAX: usize = 32;

/// How long a call may take to be set up.
const OPEN_PATIENCE: Duration = Duration::from_secs(20);

/// How long frames that are under way are waited for.
const QUIET_PATIENCE: Duration = Duration::from_secs(5);

const READ_BYTES: usize = 64 * 1024;

const TIMER: u64 = u64::MAX;
const ORDERS: u64 = u64::MAX - 1;

/// What a generator is told when it starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DriveSpec {
    /// Where the calls go.
    pub target: SocketAddr,
    /// The certificate to trust; `None`: plain.
    pub tls: Option<PathBuf>,
    /// Of the first call. Generators that run beside each other must not share any.
    pub first_number: u32,
}

pub(crate) struct Drive {
    poller: Poller,
    timer: OwnedFd,
    clock: Clock,
    target: SocketAddr,
    identity: Option<Arc<Identity>>,
    calls: Vec<Option<Call>>,
    free: Vec<usize>,
    next_number: u32,
    buffer: Vec<u8>,
    /// A frame on its way out.
    out: Vec<u8>,
    stats: Stats,
    flow: Option<Flow>,
    rate: Option<Rate>,
    /// Connections that say their request very slowly.
    slow: Slow,
    heard: Vec<u8>,
    ended: bool,
}

/// Drives until standard input ends.
pub(crate) fn run(spec: &DriveSpec) -> io::Result<()> {
    let identity = spec.tls.as_deref().map(Identity::load).transpose()?;
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    let mut drive = Drive {
        poller: Poller::new()?,
        timer,
        clock: Clock::start(),
        target: spec.target,
        identity: identity.map(Arc::new),
        calls: Vec::new(),
        free: Vec::new(),
        next_number: spec.first_number,
        buffer: vec![0; READ_BYTES],
        out: Vec::new(),
        stats: Stats::default(),
        flow: None,
        rate: None,
        slow: Slow::default(),
        heard: Vec::new(),
        ended: false,
    };
    drive.poller.add(&drive.timer, TIMER, EventFlags::IN)?;
    drive
        .poller
        .add(io::stdin().as_fd(), ORDERS, EventFlags::IN)?;
    while !drive.ended {
        while let Some(order) = drive.next_order()? {
            let reply = drive.obey(order)?;
            orders::answer(&reply)?;
        }
        drive.turn(None)?;
    }
    Ok(())
}

impl Drive {
    /// Waits for whatever is next, at most until `until`, and does it.
    fn turn(&mut self, until: Option<u64>) -> io::Result<()> {
        let due = self.send_due();
        let rate = self.feed_rate();
        let drip = self.drip()?;
        let next = [due, until, rate, drip].into_iter().flatten().min();
        let now = self.clock.now();
        let mut timeout = None;
        match next {
            Some(next) if next > now => self.arm(next - now)?,
            Some(_) => timeout = Some(Duration::ZERO),
            None => {}
        }
        for index in 0..self.poller.wait(timeout)? {
            match self.poller.event(index) {
                (TIMER, _) => self.arm(0)?,
                (ORDERS, _) => self.hear()?,
                (key, flags) => {
                    let index = usize::try_from(key).expect("made by open");
                    self.on_event(index, flags);
                }
            }
        }
        Ok(())
    }

    /// Zero: not at all.
    fn arm(&self, nanoseconds: u64) -> io::Result<()> {
        let value = Timespec {
            tv_sec: i64::try_from(nanoseconds / 1_000_000_000).expect("seconds"),
            tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).expect("less than a second"),
        };
        let never = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let when = Itimerspec {
            it_interval: never,
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &when)?;
        Ok(())
    }

    fn hear(&mut self) -> io::Result<()> {
        let length = rustix::io::read(io::stdin().as_fd(), &mut self.buffer)?;
        if length == 0 {
            self.ended = true;
        }
        self.heard.extend_from_slice(&self.buffer[..length]);
        Ok(())
    }

    fn next_order(&mut self) -> io::Result<Option<Order>> {
        let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line: Vec<u8> = self.heard.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    fn obey(&mut self, order: Order) -> io::Result<Reply> {
        match order {
            Order::Open { calls } => self.open_until(calls)?,
            Order::Flow { period_ns } => self.start_flow(period_ns.max(1)),
            Order::Mark => self.mark(),
            Order::Take => {}
            Order::Quiet => self.quiet()?,
            Order::Rate { concurrency } => self.rate = Some(Rate::new(concurrency)),
            Order::Slow { connections } => {
                let now = self.clock.now();
                self.slow.replace(self.target, connections, now)?;
            }
            Order::Probe { seconds_max } => return self.probe(seconds_max),
        }
        Ok(self.reply())
    }

    /// Opens calls until there are so many, each with one frame there and back.
    fn open_until(&mut self, wanted: usize) -> io::Result<()> {
        let patience = nanoseconds(OPEN_PATIENCE);
        let mut progress = (0, self.clock.now());
        let failed = self.stats.failed;
        loop {
            let open = self.calls.iter().flatten().filter(|c| c.is_open()).count();
            let opening = self.calls.iter().flatten().count() - open;
            if open >= wanted {
                break;
            }
            let now = self.clock.now();
            if open != progress.0 {
                progress = (open, now);
            }
            if self.ended || now - progress.1 > patience || self.stats.failed > failed + 100 {
                return Ok(());
            }
            for _ in opening..OPENING_MAX.min(wanted - open) {
                self.open(false)?;
            }
            self.turn(Some(now + 20_000_000))?;
        }
        Ok(())
    }

    /// Begins one call.
    fn open(&mut self, brief: bool) -> io::Result<usize> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.calls.push(None);
            self.calls.len() - 1
        });
        let number = self.next_number;
        self.next_number += 1;
        let now = self.clock.now();
        let call = Call::dial(number, brief, self.target, self.identity.as_deref(), now)?;
        self.poller
            .add(call.socket(), index as u64, call.interest())?;
        self.calls[index] = Some(call);
        Ok(index)
    }

    fn on_event(&mut self, index: usize, flags: EventFlags) {
        let now = self.clock.now();
        let Some(Some(call)) = self.calls.get_mut(index) else {
            return;
        };
        let before = call.interest();
        match call.on_event(flags, &mut self.buffer, &mut self.stats, now) {
            None => self.settle(index, before),
            Some(end) => {
                let brief = call.is_brief();
                self.stats.ended(end);
                self.calls[index] = None;
                self.free.push(index);
                if let Some(rate) = self.rate.as_mut().filter(|_| brief) {
                    rate.ended(end, now);
                }
            }
        }
    }

    /// Tells epoll if a call wants something else than before.
    fn settle(&mut self, index: usize, before: EventFlags) {
        if let Some(call) = &self.calls[index] {
            let want = call.interest();
            if want != before {
                // A socket that cannot be watched is gone, which its call will show.
                let _ = self.poller.change(call.socket(), index as u64, want);
            }
        }
    }

    fn reply(&self) -> Reply {
        let mut reply = self.stats.reply(&self.calls, self.clock.now());
        reply.cut = self.slow.cut();
        reply
    }

    fn mark(&mut self) {
        self.stats.mark();
        for call in self.calls.iter_mut().flatten() {
            call.mark();
        }
    }

    /// Stops sending, and waits for what is under way.
    fn quiet(&mut self) -> io::Result<()> {
        self.flow = None;
        if let Some(rate) = &mut self.rate {
            rate.stop();
        }
        let end = self.clock.now() + nanoseconds(QUIET_PATIENCE);
        loop {
            let busy = self.rate.as_ref().is_some_and(Rate::is_busy);
            let owed = self.calls.iter().flatten().any(|call| call.owed() > 0);
            if !(busy || owed) || self.ended || self.clock.now() > end {
                break;
            }
            let soon = self.clock.now() + 20_000_000;
            self.turn(Some(end.min(soon)))?;
        }
        self.rate = None;
        Ok(())
    }

    /// How long until a new call is taken and answered, tried every few milliseconds.
    fn probe(&mut self, seconds_max: u64) -> io::Result<Reply> {
        let started = self.clock.now();
        let end = started + seconds_max * 1_000_000_000;
        let mut answered = None;
        while answered.is_none() && self.clock.now() < end && !self.ended {
            let Ok(index) = self.open(false) else {
                let soon = self.clock.now() + 2_000_000;
                self.turn(Some(soon))?;
                continue;
            };
            let failed = self.stats.failed;
            loop {
                let now = self.clock.now();
                match &self.calls[index] {
                    Some(call) if call.is_open() => {
                        answered = Some(now - started);
                        break;
                    }
                    Some(_) if now < end => self.turn(Some(now + 2_000_000))?,
                    _ => {
                        self.turn(Some(now + 2_000_000))?;
                        break;
                    }
                }
            }
            self.stats.failed = failed;
        }
        let mut reply = self.reply();
        reply.answered_after_ns = answered;
        Ok(reply)
    }
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("short durations")
}
