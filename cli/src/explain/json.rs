//! Pages for programs. Names of keys stay; keys may be added.

use super::Names;
use gridnet::core::stats::PeerCounters;
use gridnet::page::{Activity, LinkView, PageView, PeerView, WaitView, Who};
use serde_json::{json, Map, Value};

pub(super) fn of_view(view: &PageView, names: &Names) -> Value {
    let mut all = of_who(&view.who);
    all["activity"] = of_activity(&view.activity);
    all["waits"] = of_waits(&view.waits);
    all["peers"] = view.peers.iter().map(|peer| of_peer(peer, names)).collect();
    all["more_peers"] = view.more_peers.into();
    all
}

pub(crate) fn of_who(who: &Who) -> Value {
    let setting = |s: &gridnet::page::Setting| json!({ "name": s.name, "value": s.value, "default": s.default, "origin": s.origin });
    json!({
        "pid": who.pid,
        "uid": who.uid,
        "name": who.name,
        "program": who.program,
        "version": who.version,
        "node": who.node,
        "incarnation": who.incarnation,
        "wait_mode": who.wait_mode,
        "config": who.config.iter().map(setting).collect::<Value>(),
        "missing_rails": who.missing.iter().map(|(rail, why)| json!({ "rail": rail, "reason": why })).collect::<Value>(),
    })
}

pub(crate) fn of_activity(activity: &Activity) -> Value {
    json!({
        "counters": of_counters(&activity.peers),
        "receives_posted": activity.posted,
        "receives_incoming": activity.incoming,
        "sends_pending": activity.sends,
        "unexpected": activity.unexpected,
        "unexpected_bytes": activity.unexpected_bytes,
        "failures": activity.failures,
        "peers_total": activity.peers_total,
        "peers_gone": activity.peers_gone,
        "polls": activity.polls,
        "empty_polls": activity.empty_polls,
        "sleeps": activity.sleeps,
        "wakeups_sent": activity.wakeups_sent,
        "looked_ago_ns": activity.looked_ago_ns,
    })
}

pub(crate) fn of_waits(waits: &[WaitView]) -> Value {
    let wait = |w: &WaitView| {
        json!({
            "thread": w.thread,
            "call": w.call,
            "for_ns": w.for_ns,
            "timeout_ns": w.timeout_ns,
            "asleep": w.asleep,
        })
    };
    waits.iter().map(wait).collect()
}

pub(crate) fn of_peer(peer: &PeerView, names: &Names) -> Value {
    let figures: Map<String, Value> = peer.figures.iter().map(|(k, v)| (k.clone(), (*v).into())).collect();
    let verdict = |v: &gridnet::Verdict| json!({ "rail": v.rail, "in_use": v.in_use, "reason": v.reason });
    json!({
        "peer": peer.peer,
        "node": peer.node,
        "incarnation": peer.incarnation,
        "pid": peer.pid,
        "name": names.of(&peer.node),
        "state": peer.state,
        "error": peer.error.as_ref().map(|(code, reason)| json!({ "status": code, "reason": reason })),
        "rail": peer.rail,
        "figures": figures,
        "rails": peer.verdicts.iter().map(verdict).collect::<Value>(),
        "links": peer.links.iter().map(of_link).collect::<Value>(),
        "breaks": peer.breaks,
        "replays": peer.replays,
        "last_call": peer.last_call.as_ref().map(|(code, reason)| json!({ "status": code, "reason": reason })),
        "counters": of_counters(&peer.counters),
        "pending": peer.waiting.pending,
        "bulk": peer.waiting.bulk,
        "unexpected": peer.waiting.unexpected,
        "unexpected_bytes": peer.waiting.unexpected_bytes,
        "failures": peer.waiting.failures,
        "stopped": peer.waiting.stopped,
        "stopping": peer.waiting.stopping,
        "torn": peer.torn,
    })
}

fn of_link(link: &LinkView) -> Value {
    let [local, remote] = &link.ends;
    json!({
        "rail": link.rail,
        "local": local,
        "remote": remote,
        "round_trip_ns": link.round_trip_ns,
        "security": link.security,
        "bytes_sent": link.moved.map(|[sent, _]| sent),
        "bytes_received": link.moved.map(|[_, received]| received),
        "tried": link.tried,
    })
}

fn of_counters(counters: &PeerCounters) -> Value {
    let pairs = PeerCounters::NAMES.into_iter().zip(counters.values());
    pairs.map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
}
