//! Who holds which address: the allocation logic, in memory and free of clocks and disks.
//!
//! A machine is its MAC, so firmware, iPXE, initramfs and system keep one address whatever client ids they send.
//! What is promised: an address has one owner at a time; a machine gets the address it had, as long as nobody needed
//! it since; addresses that were never used go before those of machines long gone, oldest first. Memory is bounded by
//! the configured addresses, whatever number of machines ask.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use super::config::{Range, Subnet};
use super::lease::{Lease, LeaseChange, UnixTime};
use crate::machine::Mac;

/// How long an offered address is kept for the machine that it was offered to, in seconds.
const HOLD: u64 = 60;
/// How long an address stays unused after someone else was seen at it, in seconds.
const QUARANTINE: u64 = 3600;

/// What a machine may have, and would like.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The machine.
    pub mac: Mac,
    /// The network it is on.
    pub subnet: &'a Subnet,
    /// The server's own address, which is no machine's.
    pub server: Ipv4Addr,
    /// Which ranges it may draw from: those of this name, or, where the network has none of that name, those without.
    pub range: Option<&'a str>,
    /// Its reserved address.
    pub fixed: Option<Ipv4Addr>,
    /// The address it asks for.
    pub wish: Option<Ipv4Addr>,
}

impl Ask<'_> {
    /// Its reserved address, if that is of any use on this network.
    fn fixed(&self) -> Option<Ipv4Addr> {
        self.fixed
            .filter(|a| self.subnet.is_host(*a) && *a != self.server)
    }

    fn ranges(&self) -> impl Iterator<Item = &Range> {
        let ranges = &self.subnet.ranges;
        let own = self
            .range
            .filter(|name| ranges.iter().any(|r| r.name.as_deref() == Some(name)));
        ranges.iter().filter(move |r| r.name.as_deref() == own)
    }

    /// Whether the configuration lets the machine have `address`.
    pub fn allows(&self, address: Ipv4Addr) -> bool {
        self.fixed() == Some(address)
            || (self.ranges().any(|r| r.contains(address)) && self.dynamic(address))
    }

    fn dynamic(&self, address: Ipv4Addr) -> bool {
        self.subnet.is_host(address)
            && address != self.server
            && !self.subnet.exclude.iter().any(|r| r.contains(address))
            && !self.subnet.routers.contains(&address)
    }
}

/// An address chosen for a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The address.
    pub address: Ipv4Addr,
    /// Whether this machine never had it, so that somebody unknown may be sitting on it.
    pub fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Held,
    Leased,
    Quarantined,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    mac: Mac,
    state: State,
    until: UnixTime,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slots {
    leased: Option<Ipv4Addr>,
    held: Option<Ipv4Addr>,
}

/// The addresses in use.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<Ipv4Addr, Entry>,
    machines: HashMap<Mac, Slots>,
    expiry: BTreeSet<(UnixTime, Ipv4Addr)>,
    /// Per range (by its first address): how many addresses from its start on have been used at some time.
    used: HashMap<Ipv4Addr, u32>,
    /// Addresses used at some time and nobody's now.
    freed: BTreeSet<Ipv4Addr>,
    names: HashMap<Ipv4Addr, String>,
}

impl Table {
    /// Takes up what an earlier process wrote down.
    pub fn restore(&mut self, leases: impl IntoIterator<Item = Lease>) {
        for lease in leases {
            self.put(
                lease.address,
                Entry {
                    mac: lease.mac,
                    state: State::Leased,
                    until: lease.expires,
                },
            );
            self.name(lease.address, lease.hostname);
        }
    }

    /// Chooses an address and holds it for a minute. None: nothing is free.
    pub fn offer(&mut self, ask: &Ask<'_>, now: UnixTime) -> Option<Choice> {
        let address = self.choose(ask, now)?;
        let had = self.entries.get(&address).copied();
        let own = had.filter(|e| e.mac == ask.mac && e.state != State::Quarantined);
        // A lease that still runs is not shortened to a hold.
        if own.is_none_or(|e| e.state == State::Held || e.until <= now) {
            self.put(
                address,
                Entry {
                    mac: ask.mac,
                    state: State::Held,
                    until: now.after(HOLD),
                },
            );
        }
        Some(Choice {
            address,
            fresh: own.is_none(),
        })
    }

    /// Turns an offer, or an older lease, into a lease until `until`; says what is to be written down. None: the
    /// machine may not have `address`.
    pub fn confirm(
        &mut self,
        ask: &Ask<'_>,
        lease: Lease,
        now: UnixTime,
    ) -> Option<Vec<LeaseChange>> {
        let address = lease.address;
        if !ask.allows(address) || !self.usable(ask.mac, address, now) {
            return None;
        }
        let before = self.machines.get(&ask.mac).copied().unwrap_or_default();
        let old = before.leased.filter(|a| *a != address);
        for left in [old, before.held.filter(|a| *a != address)]
            .into_iter()
            .flatten()
        {
            self.vacate(left);
        }
        self.put(
            address,
            Entry {
                mac: ask.mac,
                state: State::Leased,
                until: lease.expires,
            },
        );
        self.name(address, lease.hostname.clone());
        Some(
            old.map(LeaseChange::Remove)
                .into_iter()
                .chain([LeaseChange::Put(lease)])
                .collect(),
        )
    }

    /// The machine gives `address` back. It stays the machine's own until another needs it.
    pub fn release(&mut self, mac: Mac, address: Ipv4Addr, now: UnixTime) -> Option<LeaseChange> {
        let entry = self
            .entries
            .get(&address)
            .copied()
            .filter(|e| e.mac == mac && e.state == State::Leased)?;
        let hostname = self.names.get(&address).cloned();
        self.put(
            address,
            Entry {
                until: now,
                ..entry
            },
        );
        self.name(address, hostname.clone());
        Some(LeaseChange::Put(Lease {
            mac,
            address,
            expires: now,
            hostname,
        }))
    }

    /// Somebody else was seen at `address`: nobody gets it for an hour.
    pub fn quarantine(
        &mut self,
        mac: Mac,
        address: Ipv4Addr,
        now: UnixTime,
    ) -> Option<LeaseChange> {
        let entry = self
            .entries
            .get(&address)
            .copied()
            .filter(|e| e.mac == mac)?;
        self.put(
            address,
            Entry {
                mac,
                state: State::Quarantined,
                until: now.after(QUARANTINE),
            },
        );
        (entry.state == State::Leased).then_some(LeaseChange::Remove(address))
    }

    /// The machine took another server's offer: what was held for it is free again.
    pub fn withdraw(&mut self, mac: Mac) {
        if let Some(held) = self.machines.get(&mac).and_then(|s| s.held) {
            self.vacate(held);
        }
    }

    /// The owner of `address`, if its lease runs.
    pub fn owner(&self, address: Ipv4Addr, now: UnixTime) -> Option<Mac> {
        let entry = self.entries.get(&address)?;
        (entry.state == State::Leased && entry.until > now).then_some(entry.mac)
    }

    /// The address of `mac`, if it has a lease, run out or not.
    pub fn address(&self, mac: Mac) -> Option<Ipv4Addr> {
        self.machines.get(&mac)?.leased
    }

    /// Forgets a machine altogether.
    pub fn forget(&mut self, mac: Mac) -> Option<LeaseChange> {
        let slots = self.machines.get(&mac).copied()?;
        if let Some(held) = slots.held {
            self.vacate(held);
        }
        slots.leased.map(|address| {
            self.vacate(address);
            LeaseChange::Remove(address)
        })
    }

    /// All leases, run out or not, by address.
    pub fn leases(&self) -> Vec<Lease> {
        let leased = self
            .entries
            .iter()
            .filter(|(_, e)| e.state == State::Leased);
        leased
            .map(|(a, e)| Lease {
                mac: e.mac,
                address: *a,
                expires: e.until,
                hostname: self.names.get(a).cloned(),
            })
            .collect()
    }

    fn choose(&mut self, ask: &Ask<'_>, now: UnixTime) -> Option<Ipv4Addr> {
        let slots = self.machines.get(&ask.mac).copied().unwrap_or_default();
        let known = [ask.fixed(), slots.leased, slots.held, ask.wish];
        let known = known
            .into_iter()
            .flatten()
            .find(|a| ask.allows(*a) && self.usable(ask.mac, *a, now));
        known
            .or_else(|| self.never_used(ask))
            .or_else(|| self.freed.iter().copied().find(|a| ask.allows(*a)))
            .or_else(|| self.oldest_expired(ask, now))
    }

    fn usable(&self, mac: Mac, address: Ipv4Addr, now: UnixTime) -> bool {
        self.entries
            .get(&address)
            .is_none_or(|e| e.until <= now || (e.mac == mac && e.state != State::Quarantined))
    }

    fn never_used(&mut self, ask: &Ask<'_>) -> Option<Ipv4Addr> {
        for range in ask.ranges() {
            let used = self.used.entry(range.first).or_default();
            while *used < range.size() {
                let address = Ipv4Addr::from(u32::from(range.first) + *used);
                *used += 1;
                let known = self.entries.contains_key(&address) || self.freed.contains(&address);
                if ask.dynamic(address) && !known {
                    return Some(address);
                }
            }
        }
        None
    }

    fn oldest_expired(&self, ask: &Ask<'_>, now: UnixTime) -> Option<Ipv4Addr> {
        let expired = self.expiry.iter().take_while(|(until, _)| *until <= now);
        expired
            .map(|(_, address)| *address)
            .find(|a| ask.allows(*a))
    }

    fn put(&mut self, address: Ipv4Addr, entry: Entry) {
        self.evict(address);
        let slots = self.machines.entry(entry.mac).or_default();
        let slot = match entry.state {
            State::Leased => Some(&mut slots.leased),
            State::Held => Some(&mut slots.held),
            State::Quarantined => None,
        };
        let displaced = slot.and_then(|slot| slot.replace(address));
        if *slots == Slots::default() {
            self.machines.remove(&entry.mac);
        }
        if let Some(old) = displaced {
            self.drop_entry(old);
            self.freed.insert(old);
        }
        self.freed.remove(&address);
        self.entries.insert(address, entry);
        self.expiry.insert((entry.until, address));
    }

    fn vacate(&mut self, address: Ipv4Addr) {
        self.evict(address);
        self.freed.insert(address);
    }

    fn evict(&mut self, address: Ipv4Addr) {
        let Some(entry) = self.drop_entry(address) else {
            return;
        };
        if let Some(slots) = self.machines.get_mut(&entry.mac) {
            slots.leased = slots.leased.filter(|a| *a != address);
            slots.held = slots.held.filter(|a| *a != address);
            if *slots == Slots::default() {
                self.machines.remove(&entry.mac);
            }
        }
    }

    fn drop_entry(&mut self, address: Ipv4Addr) -> Option<Entry> {
        let entry = self.entries.remove(&address)?;
        self.expiry.remove(&(entry.until, address));
        self.names.remove(&address);
        Some(entry)
    }

    fn name(&mut self, address: Ipv4Addr, hostname: Option<String>) {
        match hostname {
            Some(name) => self.names.insert(address, name),
            None => self.names.remove(&address),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnet(last: u8) -> Subnet {
        let mut subnet = Subnet::new("10.0.0.0/24".parse().unwrap());
        subnet.ranges = vec![Range::new(ip(10), ip(last))];
        subnet
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn ask(n: u8, subnet: &Subnet) -> Ask<'_> {
        Ask {
            mac: mac(n),
            subnet,
            server: ip(1),
            range: None,
            fixed: None,
            wish: None,
        }
    }

    fn lease(n: u8, address: Ipv4Addr, expires: u64) -> Lease {
        Lease {
            mac: mac(n),
            address,
            expires: UnixTime(expires),
            hostname: None,
        }
    }

    fn take(table: &mut Table, ask: &Ask<'_>, now: u64) -> Option<Ipv4Addr> {
        let address = table.offer(ask, UnixTime(now))?.address;
        let lease = Lease {
            mac: ask.mac,
            address,
            expires: UnixTime(now + 100),
            hostname: None,
        };
        table.confirm(ask, lease, UnixTime(now)).map(|_| address)
    }

    #[test]
    fn a_machine_keeps_its_address_and_a_full_range_is_said() {
        let (mut table, subnet) = (Table::default(), subnet(11));
        assert_eq!(take(&mut table, &ask(1, &subnet), 0), Some(ip(10)));
        assert_eq!(take(&mut table, &ask(2, &subnet), 0), Some(ip(11)));
        assert_eq!(take(&mut table, &ask(3, &subnet), 50), None);
        assert_eq!(take(&mut table, &ask(1, &subnet), 60), Some(ip(10)));
        // Number 2 ran out first, so its address goes to number 3, and number 2 finds nothing.
        assert_eq!(take(&mut table, &ask(3, &subnet), 101), Some(ip(11)));
        assert_eq!(take(&mut table, &ask(2, &subnet), 102), None);
    }

    #[test]
    fn an_expired_machine_gets_its_own_address_back() {
        let (mut table, subnet) = (Table::default(), subnet(20));
        assert_eq!(take(&mut table, &ask(1, &subnet), 0), Some(ip(10)));
        assert_eq!(take(&mut table, &ask(2, &subnet), 0), Some(ip(11)));
        assert_eq!(take(&mut table, &ask(3, &subnet), 5000), Some(ip(12)));
        assert_eq!(take(&mut table, &ask(2, &subnet), 9000), Some(ip(11)));
    }

    #[test]
    fn an_offer_is_held_for_a_minute_and_a_withdrawn_one_is_not_lost() {
        let (mut table, subnet) = (Table::default(), subnet(10));
        assert!(table.offer(&ask(1, &subnet), UnixTime(0)).unwrap().fresh);
        assert_eq!(table.offer(&ask(2, &subnet), UnixTime(59)), None);
        table.withdraw(mac(1));
        assert_eq!(
            table
                .offer(&ask(2, &subnet), UnixTime(59))
                .map(|c| c.address),
            Some(ip(10))
        );
        assert_eq!(
            table
                .offer(&ask(3, &subnet), UnixTime(59 + HOLD))
                .map(|c| c.address),
            Some(ip(10))
        );
    }

    #[test]
    fn reservations_and_exclusions() {
        let (mut table, mut subnet) = (Table::default(), subnet(12));
        subnet.exclude = vec![Range::new(ip(10), ip(10))];
        subnet.routers = vec![ip(11)];
        let fixed = |n, last| Ask {
            fixed: Some(ip(last)),
            ..ask(n, &subnet)
        };
        assert_eq!(take(&mut table, &ask(1, &subnet), 0), Some(ip(12)));
        assert_eq!(take(&mut table, &fixed(2, 10), 0), Some(ip(10)));
        assert_eq!(take(&mut table, &fixed(3, 200), 0), Some(ip(200)));
        // Someone else's address, the network's own, and one from elsewhere are of no use.
        assert_eq!(take(&mut table, &fixed(4, 12), 0), None);
        assert_eq!(take(&mut table, &fixed(5, 0), 0), None);
        let far = Ask {
            fixed: Some(Ipv4Addr::new(10, 0, 1, 9)),
            ..ask(6, &subnet)
        };
        assert_eq!(take(&mut table, &far, 0), None);
    }

    #[test]
    fn named_ranges_are_for_those_who_name_them() {
        let (mut table, mut subnet) = (Table::default(), subnet(10));
        subnet.ranges.push(Range {
            name: Some("room".into()),
            first: ip(50),
            last: ip(50),
        });
        let room = |n| Ask {
            range: Some("room"),
            ..ask(n, &subnet)
        };
        assert_eq!(take(&mut table, &room(1), 0), Some(ip(50)));
        assert_eq!(take(&mut table, &room(2), 0), None);
        assert_eq!(take(&mut table, &ask(2, &subnet), 0), Some(ip(10)));
        // A machine whose range changed leaves the old address behind, for others to use.
        assert_eq!(take(&mut table, &ask(1, &subnet), 200), Some(ip(10)));
        assert_eq!(take(&mut table, &room(3), 200), Some(ip(50)));
    }

    #[test]
    fn confirm_refuses_what_is_anothers() {
        let (mut table, subnet) = (Table::default(), subnet(20));
        take(&mut table, &ask(1, &subnet), 0);
        let theirs = lease(2, ip(10), 100);
        assert_eq!(
            table.confirm(&ask(2, &subnet), theirs.clone(), UnixTime(1)),
            None
        );
        assert_eq!(
            table.confirm(
                &ask(2, &subnet),
                Lease {
                    address: ip(99),
                    ..theirs
                },
                UnixTime(1)
            ),
            None
        );
    }

    #[test]
    fn quarantine_and_release() {
        let (mut table, subnet) = (Table::default(), subnet(11));
        take(&mut table, &ask(1, &subnet), 0);
        assert_eq!(table.quarantine(mac(2), ip(10), UnixTime(1)), None);
        assert_eq!(
            table.quarantine(mac(1), ip(10), UnixTime(1)),
            Some(LeaseChange::Remove(ip(10)))
        );
        assert_eq!(take(&mut table, &ask(1, &subnet), 2), Some(ip(11)));
        assert_eq!(table.release(mac(2), ip(11), UnixTime(3)), None);
        assert_eq!(
            table.release(mac(1), ip(11), UnixTime(3)),
            Some(LeaseChange::Put(lease(1, ip(11), 3)))
        );
        assert_eq!(table.owner(ip(11), UnixTime(3)), None);
        assert_eq!(take(&mut table, &ask(2, &subnet), 4), Some(ip(11)));
        // By now both have run out; number 2's did first.
        let later = 2 + QUARANTINE;
        assert_eq!(take(&mut table, &ask(3, &subnet), later), Some(ip(11)));
        assert_eq!(take(&mut table, &ask(4, &subnet), later), Some(ip(10)));
    }

    #[test]
    fn what_was_restored_is_known() {
        let (mut table, subnet) = (Table::default(), subnet(20));
        table.restore([Lease {
            hostname: Some("r12-01".into()),
            ..lease(7, ip(10), 100)
        }]);
        assert_eq!(take(&mut table, &ask(1, &subnet), 0), Some(ip(11)));
        assert_eq!(table.owner(ip(10), UnixTime(99)), Some(mac(7)));
        assert_eq!(table.leases()[0].hostname.as_deref(), Some("r12-01"));
        assert_eq!(table.forget(mac(7)), Some(LeaseChange::Remove(ip(10))));
        assert_eq!(table.address(mac(7)), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Offer(u8),
        Confirm(u8, u8),
        Release(u8, u8),
        Decline(u8, u8),
        Withdraw(u8),
        Forget(u8),
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (m, a) = (0u8..12, 8u8..20);
        prop_oneof![
            4 => m.clone().prop_map(Step::Offer),
            4 => (m.clone(), a.clone()).prop_map(|(m, a)| Step::Confirm(m, a)),
            1 => (m.clone(), a.clone()).prop_map(|(m, a)| Step::Release(m, a)),
            1 => (m.clone(), a).prop_map(|(m, a)| Step::Decline(m, a)),
            1 => m.clone().prop_map(Step::Withdraw),
            1 => m.prop_map(Step::Forget),
            2 => (1u16..4000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a plain model: no running lease is ever given to another, and what is on disk is what is in force.
        #[test]
        fn no_address_has_two_owners(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut table, subnet, mut now) = (Table::default(), subnet(17), 0u64);
            let mut running: HashMap<Ipv4Addr, (Mac, u64)> = HashMap::new();
            let mut disk: BTreeMap<Ipv4Addr, Lease> = BTreeMap::new();
            for step in steps {
                let changes = match step {
                    Step::Wait(seconds) => { now += u64::from(seconds); vec![] }
                    Step::Offer(m) => {
                        if let Some(choice) = table.offer(&ask(m, &subnet), UnixTime(now)) {
                            let owner = running.get(&choice.address).filter(|(_, until)| *until > now);
                            prop_assert!(owner.is_none_or(|(o, _)| *o == mac(m)));
                        }
                        vec![]
                    }
                    Step::Confirm(m, a) => {
                        let wanted = lease(m, ip(a), now + 600);
                        let done = table.confirm(&ask(m, &subnet), wanted, UnixTime(now));
                        if done.is_some() {
                            let owner = running.get(&ip(a)).filter(|(_, until)| *until > now);
                            prop_assert!(owner.is_none_or(|(o, _)| *o == mac(m)));
                            running.retain(|_, (o, _)| *o != mac(m));
                            running.insert(ip(a), (mac(m), now + 600));
                        }
                        done.unwrap_or_default()
                    }
                    Step::Release(m, a) => {
                        let done = table.release(mac(m), ip(a), UnixTime(now));
                        if done.is_some() { running.remove(&ip(a)); }
                        done.into_iter().collect()
                    }
                    Step::Decline(m, a) => {
                        let done = table.quarantine(mac(m), ip(a), UnixTime(now));
                        if done.is_some() { running.remove(&ip(a)); }
                        done.into_iter().collect()
                    }
                    Step::Withdraw(m) => { table.withdraw(mac(m)); vec![] }
                    Step::Forget(m) => {
                        running.retain(|_, (o, _)| *o != mac(m));
                        table.forget(mac(m)).into_iter().collect()
                    }
                };
                for change in changes {
                    match change {
                        LeaseChange::Put(lease) => { disk.insert(lease.address, lease); }
                        LeaseChange::Remove(address) => { disk.remove(&address); }
                    }
                }
                for (address, (owner, until)) in &running {
                    if *until > now {
                        prop_assert_eq!(table.owner(*address, UnixTime(now)), Some(*owner));
                        prop_assert_eq!(disk.get(address).map(|l| l.mac), Some(*owner));
                    }
                }
                prop_assert!(table.entries.len() <= 8 && table.machines.len() <= 16 && table.expiry.len() == table.entries.len());
            }
        }
    }
}
