//! What a running server cannot take over from a changed configuration.

use std::ops::Range;

use super::{Config, problem::Problem};

/// Everything in `new` that differs from `old` and needs a restart.
pub fn needs(old: &Config, new: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_server(old, new, &mut problems);
    check_listeners(old, new, &mut problems);
    check_dhcp(old, new, &mut problems);
    check_standby(old, new, &mut problems);
    problems
}

fn restart(at: Range<usize>, what: &str) -> Problem {
    let fix =
        "restart the server for this (running machines wait for it), or put back what was there";
    Problem::at(at, format!("{what} cannot change while the server runs")).fix(fix)
}

fn check_server(old: &Config, new: &Config, problems: &mut Vec<Problem>) {
    let (was, is) = (&old.server, &new.server);
    let at = |span: &Range<usize>| span.clone();
    let mut look = |same: bool, span: Range<usize>, what: &str| {
        if !same {
            problems.push(restart(span, what));
        }
    };
    look(was.data.value == is.data.value, at(&is.data.span), "data");
    let same = was.interface.value == is.interface.value;
    look(same, at(&is.interface.span), "interface");
    let same = was.address.value == is.address.value;
    look(same, at(&is.address.span), "address");
    let ports = |server: &super::Server| (server.http_port, server.nbd_port);
    look(ports(was) == ports(is), at(&is.address.span), "a port");
    look(was.control == is.control, at(&is.address.span), "control");
    let files = |server: &super::Server| server.files.as_ref().map(|files| files.value.clone());
    let place = is
        .files
        .as_ref()
        .map_or(at(&is.address.span), |files| at(&files.span));
    look(files(was) == files(is), place, "files");
    let same = was.quiet_ipv6 == is.quiet_ipv6;
    look(same, at(&is.address.span), "quiet_ipv6");
}

fn check_listeners(old: &Config, new: &Config, problems: &mut Vec<Problem>) {
    for (name, listener) in &new.listeners {
        let was = old.listeners.get(name).map(|old| &old.place.value);
        if was != Some(&listener.place.value) {
            let what = format!("[listeners.{name}]: where NBD listens");
            problems.push(restart(listener.place.span.clone(), &what));
        }
    }
    for name in old
        .listeners
        .keys()
        .filter(|name| !new.listeners.contains_key(*name))
    {
        let what = format!("[listeners.{name}] was removed: where NBD listens");
        problems.push(restart(new.server.address.span.clone(), &what));
    }
}

fn check_dhcp(old: &Config, new: &Config, problems: &mut Vec<Problem>) {
    if old.dhcp.mode != new.dhcp.mode {
        let ranges = &new.dhcp.own.ranges;
        let at = ranges.first().map(|range| range.span.clone());
        let at = at.unwrap_or_else(|| new.server.address.span.clone());
        problems.push(restart(at, "the mode of [dhcp]"));
    }
}

fn check_standby(old: &Config, new: &Config, problems: &mut Vec<Problem>) {
    let same = match (&old.standby, &new.standby) {
        (Some(old), Some(new)) => old.is_same(new),
        (None, None) => true,
        _ => false,
    };
    if !same {
        let place = new
            .standby
            .as_ref()
            .map(|standby| standby.peer.span.clone());
        let place = place.unwrap_or_else(|| new.server.address.span.clone());
        problems.push(restart(place, "[standby]"));
    }
}
