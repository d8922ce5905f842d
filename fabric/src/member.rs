//! A fabric as a member of a session: it joins with a ticket when it is opened, and leaves when it is closed.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use gridnet_assembly::audit::Line;
use gridnet_assembly::message::Refusal as Reason;
use gridnet_assembly::name::Name as Service;
use gridnet_assembly::rules::Rules;
use gridnet_assembly::stack::Method;
use gridnet_core::endpoint::Engine;
use gridnet_core::error::Error;
use gridnet_core::rail::{Rail, Refusal};
use gridnet_core::wire::{Address, NetAddresses, NodeId};
use gridnet_meta::directory::Entry;
use gridnet_meta::error::{Error as Trouble, Refusal as Refused};
use gridnet_meta::member::{About, Assembler, LineState, Member, MetaLine, ECHO};
use gridnet_meta::name::Name;
use gridnet_meta::ticket::Ticket;
use gridnet_uring_tcp::Adopter;

use crate::assembly::{
    offer, take_pipes, tend, AtOnce, Calling, Desk, Edges, Ended, Here, Lookout, Pipes, RulesFile,
    StreamGate, Wish, Workers, SERVICE,
};
use crate::config::Config;
use crate::fabric::Fabric;
use crate::nodes::Watch;
use crate::rails::AnyRail;
use crate::session::{check_alone, refusal, Members};

/// How long asking takes at most.
const LIMIT_MAX: Duration = Duration::from_secs(60);

/// The place of a fabric in its session. It is left when this is dropped, in bounded time.
pub(crate) struct Membership {
    /// There until the end.
    own: Option<Own>,
    members: Arc<Members>,
    desk: Arc<Desk>,
    /// Addresses that were agreed on, and are being opened.
    calling: Vec<Calling>,
    lookout: Lookout,
    at_once: AtOnce,
    pub(crate) edges: Edges,
    watch: Watch,
    /// The rules that there were at the beginning name the stack `tcp`.
    may_be_plain: bool,
    /// Its threads are there in this process only.
    process: u32,
}

/// What only the process has that has joined.
struct Own {
    assembler: Arc<Assembler>,
    workers: Workers,
    member: Arc<Member>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Membership({:?})", self.members)
    }
}

impl Membership {
    /// Joins, if the configuration names a ticket. The fabric's node id is that of the node that it becomes.
    ///
    /// # Errors
    /// Why it does not: [`Error::Permission`] for a ticket that others can read, or that the session does not take (any more),
    /// [`Error::Unreachable`] when nobody answers in time, [`Error::Config`] for what is no ticket, and for rules that make no
    /// sense.
    pub(crate) fn join(config: &Config, local: &mut Address) -> Result<Option<Membership>, Refusal> {
        let Some(path) = ticket(config) else { return Ok(None) };
        check_alone(config)?;
        let (about, (file, rules)) = (about(config, local)?, rules(config)?);
        let desk = Arc::new(Desk::new()?.with_rules(file, &rules));
        let may_be_plain = rules.may_lead_to(Method::Tcp, &[]);
        let ticket = Ticket::read(path).map_err(refusal)?;
        let service = SERVICE.parse().map_err(|why: String| Refusal::new(Error::Internal, why))?;
        // Who hears of this node finds its service.
        let prepare = |member: &Member| {
            let assembler = member.assemble(rules, desk.clone());
            assembler.serve(service);
            Arc::new(assembler)
        };
        let joined = Member::join_prepared(ticket, about, config.session_timeout, prepare);
        let (member, assembler) = joined.map_err(refusal)?;
        let members = Arc::new(Members(member.credentials().map_err(refusal)?));
        local.node = member.node();
        let own = Some(Own { assembler, workers: Workers::default(), member: Arc::new(member) });
        Ok(Some(Membership {
            own,
            members,
            desk,
            calling: Vec::new(),
            lookout: Lookout::default(),
            at_once: AtOnce::default(),
            edges: Edges::default(),
            watch: Watch::default(),
            may_be_plain,
            process: std::process::id(),
        }))
    }

    /// The fabric is reached where its engine is from now on, by its rails, and plainly there. Rules decide about its streams.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child.
    pub(crate) fn open(&self, engine: &mut Engine<AnyRail>, plain: NetAddresses) -> Result<(), Refusal> {
        let (address, rails) = (*engine.local(), engine.rails().iter().map(AnyRail::name));
        let rails: Vec<&'static str> = rails.collect();
        let assembler = Arc::downgrade(&self.own()?.assembler);
        let gate = StreamGate::new(address.node, rails.clone(), self.desk.clone(), assembler);
        engine.set_gate(Box::new(gate));
        engine.note_departures();
        self.desk.open(Here { address, plain, rails });
        Ok(())
    }

    /// Whether the rules may lead to plain connections: else nothing listens for them.
    pub(crate) fn may_be_plain(&self) -> bool {
        self.may_be_plain
    }

    /// By which pipes come and go.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child.
    pub(crate) fn pipes(&self) -> Result<Pipes, Refusal> {
        Ok(Pipes::new(self.desk.clone(), &self.own()?.member))
    }

    /// Gives the rail over pipes those that others ask for.
    ///
    /// # Errors
    /// As [`Self::pipes`].
    pub(crate) fn take_pipes(&self, adopter: Adopter) -> Result<(), Refusal> {
        take_pipes(&self.own()?.member, &self.desk, adopter);
        Ok(())
    }

    /// By which the rail tcp knows its peers.
    pub(crate) fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// By whose rules it goes.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child.
    pub(crate) fn assembler(&self) -> Result<Weak<Assembler>, Refusal> {
        Ok(Arc::downgrade(&self.own()?.assembler))
    }

    /// Others may ask for this service.
    pub(crate) fn serve(&self, service: Service) {
        self.own().iter().for_each(|own| own.assembler.serve(service.clone()));
    }

    /// They may not any more.
    pub(crate) fn end_service(&self, service: &Service) {
        self.own().iter().for_each(|own| own.assembler.end_service(service));
    }

    /// How the member asks another one.
    pub(crate) fn line(&self, node: NodeId) -> Option<LineState> {
        self.own().ok().map(|own| own.member.line(node))
    }

    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    fn own(&self) -> Result<&Own, Refusal> {
        let own = self.own.as_ref().filter(|_| self.process == std::process::id());
        own.ok_or_else(forked)
    }

    /// The member that the fabric is, and what was heard of others.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child.
    pub(crate) fn watching(&mut self) -> Result<(&Member, &mut Watch), Refusal> {
        let own = self.own.as_ref().filter(|_| self.process == std::process::id());
        Ok((&own.ok_or_else(forked)?.member, &mut self.watch))
    }

    /// Agrees on an endpoint in the background.
    ///
    /// # Errors
    /// [`Error::System`] when there are no threads.
    pub(crate) fn want(&mut self, wish: Wish) -> Result<(), Refusal> {
        let is_home = self.process == std::process::id();
        let own = self.own.as_mut().filter(|_| is_home).ok_or_else(forked)?;
        match self.at_once.begin((&own.member, &own.assembler), &self.desk, wish) {
            Some(wish) => own.workers.begin(&self.desk, &own.assembler, wish),
            None => Ok(()),
        }
    }

    /// Does what can be done without other threads: answers those who ask over lines of this host, and goes on with what was
    /// begun so.
    fn attend(&mut self, engine: &mut Engine<AnyRail>) -> (usize, Vec<Ended>) {
        let taken = self.own.as_ref().map_or(0, |own| own.member.attend());
        if self.at_once.is_empty() || self.process != std::process::id() {
            return (taken, Vec::new());
        }
        let Some(own) = &mut self.own else { return (taken, Vec::new()) };
        let (mut ended, handed) = self.at_once.step(engine, &self.desk, &mut self.calling);
        for wish in handed {
            let again = wish.anew();
            if let Err(refusal) = own.workers.begin(&self.desk, &own.assembler, wish) {
                let wish = again;
                ended.push(Ended { wish, outcome: Err(refusal.error) });
            }
        }
        (taken, ended)
    }

    /// Does for those who agree what only the fabric can do; how much happened.
    #[inline]
    pub(crate) fn tend(&mut self, engine: &mut Engine<AnyRail>) -> usize {
        let mut happened = self.tend_once(engine);
        if happened > 0 && self.is_agreeing() {
            // What has just come up may be what is waited for.
            happened += self.tend_once(engine);
        }
        for wish in self.lookout.due(engine) {
            let node = wish.node;
            if self.want(wish).is_err() {
                self.lookout.ended(node, Instant::now());
            }
        }
        happened
    }

    fn tend_once(&mut self, engine: &mut Engine<AnyRail>) -> usize {
        let (taken, ended) = self.attend(engine);
        let own = self.own.as_ref().filter(|_| self.process == std::process::id());
        let assembler = own.map(|own| &*own.assembler);
        let parts = (assembler, &mut self.lookout, &mut self.edges);
        taken + tend(engine, &self.desk, &mut self.calling, parts, ended)
    }

    /// Whether something is being agreed on by whoever polls.
    pub(crate) fn is_agreeing(&self) -> bool {
        !self.at_once.is_empty()
    }

    /// Whoever polls is about to sleep: others do what polling did.
    pub(crate) fn rest(&mut self) {
        let Some(own) = self.own.as_ref().filter(|_| self.process == std::process::id()) else { return };
        own.member.rest();
        self.at_once.rest();
    }

    /// When [`Self::tend`] is to be called if nothing happens.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.lookout.next().into_iter().chain(self.at_once.next_look()).min()
    }
}

fn not_asked(why: Trouble) -> Refusal {
    let error = match why {
        Trouble::Refused(Refused::Late, _) => Error::Timeout,
        Trouble::Refused(Refused::NoRoute, _) => Error::NotFound,
        other => return refusal(other),
    };
    Refusal::new(error, why.to_string())
}

fn not_joined() -> Refusal {
    Refusal::new(Error::Config, "the fabric has joined no session: GRIDNET_SESSION names no ticket")
}

fn forked() -> Refusal {
    Refusal::new(Error::Forked, "the session was joined by another process")
}

impl Fabric {
    /// Whether it has joined a session by a ticket: then peers can be opened [by node](Self::open_node).
    pub fn is_member(&self) -> bool {
        self.membership.is_some()
    }

    /// Who is in the session, this fabric among them, by node id, as far as it knows.
    ///
    /// # Errors
    /// [`Error::Config`] when it has joined none.
    pub fn nodes(&self) -> Result<Vec<Entry>, Refusal> {
        Ok(self.membership()?.own()?.member.nodes())
    }

    /// Asks a node of the session whether it is there, and waits for its answer, as long as `limit` (a minute at most). From then on
    /// the two ask each other over a line of their own, as soon as one stands: this is for who wants the first endpoint to be opened
    /// quickly. How the node is asked now.
    ///
    /// # Errors
    /// As [`Self::nodes`]; [`Error::NotFound`] when nobody knows the way, [`Error::Timeout`] when no answer came.
    pub fn ask_node(&self, node: NodeId, limit: Duration) -> Result<LineState, Refusal> {
        let member = &self.membership()?.own()?.member;
        let asked = member.ask(node, ECHO, &[], limit.min(LIMIT_MAX));
        asked.map(|_| member.line(node)).map_err(not_asked)
    }

    /// How each node is asked that this fabric has asked for something lately, or that has asked for a line: the lines of the
    /// meta-channel that stand or are being made, and why there are no others.
    ///
    /// # Errors
    /// As [`Self::nodes`].
    pub fn lines(&self) -> Result<Vec<MetaLine>, Refusal> {
        Ok(self.membership()?.own()?.member.lines())
    }

    /// The last requests of other members for endpoints and streams that the rules of this side have refused: who, which stack, why.
    ///
    /// # Errors
    /// As [`Self::nodes`].
    pub fn refused_stacks(&self) -> Result<Vec<Line>, Refusal> {
        Ok(self.membership()?.own()?.assembler.refused())
    }

    /// How many of them were refused for this reason.
    ///
    /// # Errors
    /// As [`Self::nodes`].
    pub fn stack_refusals(&self, reason: Reason) -> Result<u64, Refusal> {
        Ok(self.membership()?.own()?.assembler.refusals(reason))
    }

    /// See [`Membership::tend`].
    #[inline]
    pub(crate) fn tend_openings(&mut self) -> usize {
        match &mut self.membership {
            Some(membership) => membership.tend(&mut self.engine),
            None => 0,
        }
    }

    /// What is readable when those who agree on endpoints want something of the fabric.
    pub(crate) fn openings_bell(&self) -> Option<BorrowedFd<'_>> {
        self.membership.as_ref().map(|membership| membership.desk.bell())
    }

    pub(crate) fn membership(&self) -> Result<&Membership, Refusal> {
        self.membership.as_ref().ok_or_else(not_joined)
    }

    pub(crate) fn membership_mut(&mut self) -> Result<&mut Membership, Refusal> {
        self.membership.as_mut().ok_or_else(not_joined)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let Some(mut own) = self.own.take() else { return };
        if self.process != std::process::id() {
            // A child of fork has a copy without the threads, and would wait for them in vain.
            std::mem::forget(std::mem::take(&mut self.at_once));
            return std::mem::forget(own);
        }
        self.desk.close();
        self.calling.clear();
        self.at_once.clear();
        own.assembler.close();
        own.workers.join();
    }
}

/// The ticket that the configuration names: whatever is no directory, which is a node that others keep.
pub(crate) fn ticket(config: &Config) -> Option<&Path> {
    config.session.as_deref().filter(|path| !path.is_dir())
}

/// The rules of the configuration's file; those of an empty one without.
fn rules(config: &Config) -> Result<(Option<RulesFile>, Rules), Refusal> {
    let Some(path) = &config.session_rules else { return Ok((None, Rules::default())) };
    RulesFile::open(path).map(|(file, rules)| (Some(file), rules))
}

fn about(config: &Config, local: &Address) -> Result<About, Refusal> {
    let name = |variable: &str, text: &str| {
        let wrong = |why| Refusal::new(Error::Config, format!("{variable}: {why}"));
        text.parse::<Name>().map_err(wrong)
    };
    let label = match &config.session_label {
        Some(text) => name("GRIDNET_SESSION_LABEL", text)?,
        None => gridnet_meta::name::of_process().map_err(refusal)?,
    };
    let cluster = config.session_cluster.as_deref().map(|text| name("GRIDNET_SESSION_CLUSTER", text));
    let offer = Some(offer(config, local));
    Ok(About { cluster: cluster.transpose()?, will: config.session_lead, offer, ..About::new(label) })
}
