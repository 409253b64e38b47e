//! Names to addresses: asked again for every new connection, but not for each of many at once.
//!
//! A look-up is the operating system's, which blocks for as long as its resolver likes. So it has a thread of its own,
//! one for each name at a time, whoever asks; those who wait give up when their own time is over, and nobody else
//! notices. There is no cache beyond the blink that spares a burst of connections its look-ups: a private endpoint
//! that moves is found by the next connection.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// An answer to a question that was asked so recently still holds.
const HOLDS: Duration = Duration::from_secs(1);

/// A look-up that takes longer is not waited for by newcomers: they ask once more.
const LOST: Duration = Duration::from_secs(30);

/// So many look-ups may be under way, lost ones included: each is a thread.
const MOST: usize = 256;

type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Looks names up; clones share what is under way.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    look_up: Box<LookUp>,
    under_way: AtomicUsize,
    asked: Mutex<HashMap<String, Asked>>,
}

/// One look-up, under way or answered.
struct Asked {
    since: Instant,
    answer: watch::Receiver<Option<Answer>>,
}

#[derive(Clone)]
enum Answer {
    Addresses(Arc<[IpAddr]>),
    Failed(Option<i32>, io::ErrorKind, Arc<str>),
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Default for Names {
    /// As the operating system resolves them.
    fn default() -> Self {
        Self::by(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }
}

impl Names {
    /// As `look_up` says, which may block.
    pub fn by(look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            look_up: Box::new(look_up),
            under_way: AtomicUsize::new(0),
            asked: Mutex::default(),
        }))
    }

    /// The addresses of a name, or the one that it is.
    ///
    /// # Errors
    /// What the look-up says, or that there is no thread for it.
    pub async fn addresses(&self, name: &str) -> io::Result<Arc<[IpAddr]>> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Arc::new([address]));
        }
        let mut answer = self.ask(name)?;
        let answer = match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        match answer {
            Some(Answer::Addresses(addresses)) => Ok(addresses),
            Some(Answer::Failed(Some(code), ..)) => Err(io::Error::from_raw_os_error(code)),
            Some(Answer::Failed(None, kind, text)) => Err(io::Error::new(kind, &*text)),
            None => Err(io::Error::other("the look-up broke off")),
        }
    }

    /// The look-up under way, or one just answered, or a new one.
    fn ask(&self, name: &str) -> io::Result<watch::Receiver<Option<Answer>>> {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = asked.get(name).filter(|earlier| earlier.holds()) {
            return Ok(earlier.answer.clone());
        }
        asked.retain(|_, earlier| earlier.holds());
        if self.0.under_way.load(Ordering::Relaxed) >= MOST {
            return Err(io::Error::other("the resolver does not answer"));
        }
        let (told, answer) = watch::channel(None);
        let (counted, owned) = (Counted::new(&self.0), name.to_owned());
        std::thread::Builder::new().name("look-up".into()).spawn(move || {
            let answer = match (counted.0.look_up)(&owned) {
                Ok(addresses) => Answer::Addresses(addresses.into()),
                Err(error) => {
                    Answer::Failed(error.raw_os_error(), error.kind(), Arc::from(error.to_string()))
                }
            };
            told.send_replace(Some(answer));
        })?;
        asked.insert(name.to_owned(), Asked { since: Instant::now(), answer: answer.clone() });
        Ok(answer)
    }
}

/// A look-up under way.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Asked {
    fn holds(&self) -> bool {
        match &*self.answer.borrow() {
            None => self.answer.has_changed().is_ok() && self.since.elapsed() < LOST,
            Some(Answer::Addresses(_)) => self.since.elapsed() < HOLDS,
            // Whoever comes next may have more luck.
            Some(Answer::Failed(..)) => false,
        }
    }
}

/// In the order in which they are tried: one of each family in turn, beginning with the first one's (RFC 8305,
/// section 4), so that a family which leads nowhere costs one try and not all of them.
pub(crate) fn in_turn(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let of = |v6: bool| addresses.iter().copied().filter(move |address| address.is_ipv6() == v6);
    let (mut first, mut second) = (of(first_is_v6), of(!first_is_v6));
    let mut turns = Vec::with_capacity(addresses.len());
    while turns.len() < addresses.len() {
        turns.extend(first.next());
        turns.extend(second.next());
    }
    turns
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn many_that_ask_at_once_share_one_look_up_and_who_asks_later_asks_anew() {
        let count = Arc::new(AtomicUsize::new(0));
        let (goes, going) = mpsc::channel::<u8>();
        let (counted, going) = (Arc::clone(&count), Mutex::new(going));
        let names = Names::by(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let last = going.lock().unwrap().recv().unwrap();
            Ok(vec![IpAddr::from([127, 0, 0, last])])
        });
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let names = names.clone();
                tokio::spawn(async move { names.addresses("west.test").await.unwrap()[0] })
            })
            .collect();
        goes.send(1).unwrap();
        for asked in asking {
            assert_eq!(asked.await.unwrap(), ip("127.0.0.1"));
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
        tokio::time::pause();
        tokio::time::advance(HOLDS).await;
        goes.send(2).unwrap();
        assert_eq!(names.addresses("west.test").await.unwrap()[0], ip("127.0.0.2"));
    }

    #[tokio::test]
    async fn a_name_that_hangs_stands_in_no_other_names_way_and_is_asked_for_again() {
        let (_goes, going) = mpsc::channel::<()>();
        let (going, first) = (Mutex::new(going), AtomicUsize::new(0));
        let names = Names::by(move |name| {
            if name == "hangs.test" && first.fetch_add(1, Ordering::SeqCst) == 0 {
                let _never = going.lock().unwrap().recv();
            }
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        });
        let waiting = tokio::time::timeout(Duration::from_millis(20), names.addresses("hangs.test"));
        assert!(waiting.await.is_err());
        assert!(names.addresses("west.test").await.is_ok());
        tokio::time::pause();
        tokio::time::advance(LOST).await;
        tokio::time::resume();
        assert!(names.addresses("hangs.test").await.is_ok());
    }

    #[tokio::test]
    async fn a_resolver_that_never_answers_takes_no_more_than_its_bound_of_threads() {
        let (goes, going) = mpsc::channel::<()>();
        let going = Mutex::new(going);
        let names = Names::by(move |_| {
            let _never = going.lock().unwrap().recv();
            Ok(Vec::new())
        });
        for n in 0..MOST {
            names.ask(&format!("{n}.test")).unwrap();
        }
        let told = names.addresses("one-more.test").await.unwrap_err();
        assert_eq!(told.to_string(), "the resolver does not answer");
        drop(goes);
        while names.0.under_way.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(names.addresses("one-more.test").await.is_ok());
    }

    #[tokio::test]
    async fn a_failure_is_told_and_not_remembered() {
        let tries = AtomicUsize::new(0);
        let names = Names::by(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
            1 => panic!("a resolver that breaks"),
            _ => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
        });
        assert_eq!(names.addresses("west.test").await.unwrap_err().to_string(), "no such name");
        assert!(names.addresses("west.test").await.is_err());
        assert!(names.addresses("west.test").await.is_ok());
    }

    #[test]
    fn families_take_turns() {
        let addresses = ["::1", "::2", "::3", "10.0.0.1"].map(ip);
        assert_eq!(in_turn(&addresses), ["::1", "10.0.0.1", "::2", "::3"].map(ip));
        assert_eq!(in_turn(&[ip("10.0.0.1")]), [ip("10.0.0.1")]);
        assert!(in_turn(&[]).is_empty());
    }
}
