//! Answers clients without an allocation. Only a request that is signed with a user's password passes.
//!
//! Everybody can forge a source address, so the gate stores nothing for a client:
//!
//! - A nonce is computed from the client's address instead of stored. A client that sends it back receives datagrams at
//!   that address.
//! - All answers to one network together have a limit in bytes for each second. A forger who uses it up keeps new clients
//!   of that network out, but nobody who has an allocation.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use turn_server_proto::types::{
    message::ALLOCATE,
    stun::{
        attribute::{ErrorCode, Fingerprint, Nonce, Realm, Username, XorMappedAddress},
        message::{
            BINDING, IntegrityAlgorithm, IntegrityKey, LongTermCredentials, Message, MessageClass,
            MessageWrite as _, MessageWriteExt as _, MessageWriteVec, StunWriteError,
        },
        prelude::AttributeStaticType as _,
    },
};

use crate::cli::User;

/// A nonce is valid in the period in which it was issued and in the next one.
const NONCE_PERIOD: Duration = Duration::from_secs(60);

/// About a hundred clients of one network can come in one second, and then a hundred in each.
const BYTES_PER_SECOND: u32 = 8_192;
const BURST: Duration = Duration::from_secs(1);
/// Networks that share a place by chance share its limit. This many places are 64 KiB.
const PLACES: usize = 4_096;

pub(crate) struct Gate {
    users: HashMap<String, (User, IntegrityKey)>,
    /// Checked for unknown users, so that the time does not tell who is known.
    nobody: IntegrityKey,
    realm: String,
    keys: RandomState,
    start: Instant,
    /// When the answers to a network will have been paid for.
    paid_at: Box<[Instant]>,
}

/// The treatment of a datagram.
pub(crate) enum Verdict {
    Ignore,
    Answer(Vec<u8>),
    /// The user may allocate.
    Pass(User),
}

impl Gate {
    pub(crate) fn new(users: &[User], realm: &str, now: Instant) -> Self {
        let key = |user: &User| {
            LongTermCredentials::new(user.name.clone(), user.password.clone())
                .to_key(realm.to_owned())
                .make_key(IntegrityAlgorithm::Sha1)
        };
        Self {
            nobody: key(&User {
                name: "nobody".to_owned(),
                password: "nothing".to_owned(),
            }),
            users: users
                .iter()
                .map(|user| (user.name.clone(), (user.clone(), key(user))))
                .collect(),
            realm: realm.to_owned(),
            keys: RandomState::new(),
            start: now,
            paid_at: vec![now; PLACES].into(),
        }
    }

    /// Judges a datagram that `client`, which has no allocation, has sent to `asked`. Without `has_room` nobody may
    /// allocate.
    pub(crate) fn judge(
        &mut self,
        datagram: &[u8],
        asked: SocketAddr,
        client: SocketAddr,
        has_room: bool,
        now: Instant,
    ) -> Verdict {
        let Ok(request) = Message::from_bytes(datagram) else {
            return Verdict::Ignore;
        };
        if !request.has_class(MessageClass::Request) {
            return Verdict::Ignore;
        }
        let answer = if request.has_method(BINDING) {
            binding(&request, client)
        } else {
            let period = now.saturating_duration_since(self.start).as_secs() / NONCE_PERIOD.as_secs();
            let nonce = |period| format!("{:016x}", self.keys.hash_one((asked, client, period)));
            let given = request.attribute::<Nonce>();
            let refuse = |code| refused(&request, code, &self.realm, &nonce(period));
            match given.as_ref().map(Nonce::nonce) {
                Err(_) => refuse(ErrorCode::UNAUTHORIZED),
                Ok(given) if given != nonce(period) && given != nonce(period.saturating_sub(1)) => {
                    refuse(ErrorCode::STALE_NONCE)
                }
                Ok(_) => match self.user(&request) {
                    None => refuse(ErrorCode::UNAUTHORIZED),
                    Some((_, key)) if !request.has_method(ALLOCATE) => {
                        return signed(&request, ErrorCode::ALLOCATION_MISMATCH, key);
                    }
                    Some((_, key)) if !has_room => {
                        return signed(&request, ErrorCode::INSUFFICIENT_CAPACITY, key);
                    }
                    Some((user, _)) => return Verdict::Pass(user.clone()),
                },
            }
        };
        match answer {
            Ok(answer) if self.allows(&answer, client, now) => Verdict::Answer(answer),
            _ => Verdict::Ignore,
        }
    }

    /// The user whose password has signed the request.
    fn user(&self, request: &Message<'_>) -> Option<&(User, IntegrityKey)> {
        let name = request.attribute::<Username>().ok()?;
        let known = self.users.get(name.username());
        let key = known.map_or(&self.nobody, |(_, key)| key);
        let is_signed = request.validate_integrity_with_key(key).is_ok();
        known.filter(|_| is_signed)
    }

    /// Whether an answer to somebody who has not shown that the address is theirs keeps to the limit.
    pub(crate) fn allows(&mut self, answer: &[u8], client: SocketAddr, now: Instant) -> bool {
        let Ok(bytes) = u32::try_from(answer.len()) else {
            return false;
        };
        let hash = self.keys.hash_one(network(client.ip())).to_ne_bytes();
        let place = usize::from(u16::from_ne_bytes([hash[0], hash[1]])) % PLACES;
        let paid_at = self.paid_at[place].max(now) + Duration::from_secs(1) * bytes / BYTES_PER_SECOND;
        let is_allowed = paid_at <= now + BURST;
        if is_allowed {
            self.paid_at[place] = paid_at;
        }
        is_allowed
    }
}

/// The /24 or /56 of an address.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 72)).into(),
    }
}

fn binding(request: &Message<'_>, client: SocketAddr) -> Result<Vec<u8>, StunWriteError> {
    let writer = MessageWriteVec::new();
    if let Some(unknown) = Message::check_attribute_types(request, &[Fingerprint::TYPE], &[], writer) {
        return Ok(unknown.finish());
    }
    let mut answer = Message::builder_success(request, MessageWriteVec::new());
    answer.add_attribute(&XorMappedAddress::new(client, request.transaction_id()))?;
    answer.add_fingerprint()?;
    Ok(answer.finish())
}

fn refused(request: &Message<'_>, code: u16, realm: &str, nonce: &str) -> Result<Vec<u8>, StunWriteError> {
    let mut answer = Message::builder_error(request, MessageWriteVec::new());
    answer.add_attribute(&ErrorCode::builder(code).build()?)?;
    answer.add_attribute(&Realm::new(realm)?)?;
    answer.add_attribute(&Nonce::new(nonce)?)?;
    Ok(answer.finish())
}

fn signed(request: &Message<'_>, code: u16, key: &IntegrityKey) -> Verdict {
    let answer = || {
        let mut answer = Message::builder_error(request, MessageWriteVec::new());
        answer.add_attribute(&ErrorCode::builder(code).build()?)?;
        answer.add_message_integrity_with_key(key, IntegrityAlgorithm::Sha1)?;
        Ok::<_, StunWriteError>(answer.finish())
    };
    answer().map_or(Verdict::Ignore, Verdict::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "192.0.2.1:3478";
    const CLIENT: &str = "192.0.2.7:7";
    const SECOND: Duration = Duration::from_secs(1);

    fn gate(now: Instant) -> Gate {
        let user = User {
            name: "alice".into(),
            password: "secret".into(),
        };
        Gate::new(&[user], "realm", now)
    }

    /// A request of alice with a nonce, or without one.
    fn request(nonce: Option<&str>, password: &str) -> Vec<u8> {
        let mut request = Message::builder_request(ALLOCATE, MessageWriteVec::new());
        if let Some(nonce) = nonce {
            request.add_attribute(&Nonce::new(nonce).unwrap()).unwrap();
            request.add_attribute(&Realm::new("realm").unwrap()).unwrap();
            request.add_attribute(&Username::new("alice").unwrap()).unwrap();
            let key = LongTermCredentials::new("alice".into(), password.into()).to_key("realm".into());
            request
                .add_message_integrity_with_key(
                    &key.make_key(IntegrityAlgorithm::Sha1),
                    IntegrityAlgorithm::Sha1,
                )
                .unwrap();
        }
        request.finish()
    }

    /// The code of the error and the nonce, if the request does not pass.
    fn refusal(
        gate: &mut Gate,
        request: &[u8],
        client: &str,
        has_room: bool,
        now: Instant,
    ) -> Option<(u16, Option<String>)> {
        let (asked, client) = (ASKED.parse().unwrap(), client.parse().unwrap());
        match gate.judge(request, asked, client, has_room, now) {
            Verdict::Ignore => panic!("ignored"),
            Verdict::Pass(user) => {
                assert_eq!(user.name, "alice");
                None
            }
            Verdict::Answer(answer) => {
                let answer = Message::from_bytes(&answer).unwrap();
                let nonce = answer.attribute::<Nonce>().ok();
                let code = answer.attribute::<ErrorCode>().unwrap().code();
                Some((code, nonce.map(|nonce| nonce.nonce().to_owned())))
            }
        }
    }

    #[test]
    fn a_nonce_is_its_clients_own_and_expires() {
        let start = Instant::now();
        let mut gate = gate(start);
        let (code, nonce) = refusal(&mut gate, &request(None, ""), CLIENT, true, start).unwrap();
        assert_eq!(code, 401);
        let good = request(nonce.as_deref(), "secret");
        for after in [Duration::ZERO, NONCE_PERIOD, 119 * SECOND] {
            assert_eq!(refusal(&mut gate, &good, CLIENT, true, start + after), None);
        }
        for (client, after) in [
            ("192.0.2.7:8", Duration::ZERO),
            ("192.0.2.8:7", Duration::ZERO),
            (CLIENT, 2 * NONCE_PERIOD),
        ] {
            let (code, fresh) = refusal(&mut gate, &good, client, true, start + after).unwrap();
            assert_eq!(code, 438, "{client}");
            assert_ne!(fresh, nonce);
        }
    }

    #[test]
    fn only_a_users_password_passes() {
        let start = Instant::now();
        let mut gate = gate(start);
        let nonce = refusal(&mut gate, &request(None, ""), CLIENT, true, start)
            .unwrap()
            .1;
        let nonce = nonce.as_deref();
        let refused = |gate: &mut Gate, password, has_room| {
            refusal(gate, &request(nonce, password), CLIENT, has_room, start).map(|(code, _)| code)
        };
        assert_eq!(refused(&mut gate, "wrong", true), Some(401));
        assert_eq!(refused(&mut gate, "secret", true), None);
        assert_eq!(refused(&mut gate, "secret", false), Some(508));
    }

    #[test]
    fn answers_to_a_network_have_a_limit() {
        let start = Instant::now();
        let mut gate = gate(start);
        let mut bytes = |client: &str, now| {
            let answer = [0; 128];
            let answers = (0..10_000).filter(|_| gate.allows(&answer, client.parse().unwrap(), now));
            128 * answers.count()
        };
        for (client, neighbour, other) in [
            ("192.0.2.7:1", "192.0.2.255:2", "192.0.3.7:1"),
            ("[2001:db8::1]:1", "[2001:db8:0:ff::1]:2", "[2001:db8:0:100::1]:1"),
        ] {
            assert_eq!(bytes(client, start), 8_192);
            assert_eq!(bytes(neighbour, start), 0);
            assert_eq!(bytes(other, start), 8_192);
            assert_eq!(bytes(neighbour, start + SECOND / 2), 4_096);
            assert_eq!(bytes(client, start + 60 * SECOND), 8_192);
        }
    }
}
