//! Keeps the tokens fresh: one task for each source, on the control thread.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use secrecy::ExposeSecret as _;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use super::fetch::fetch;
use super::slot::{Held, Slot};
use super::{Fetched, TokenError, TokenSettings, schedule};
use crate::net::upstream::Tls;
use crate::telemetry::clock;

/// One try takes no longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Told when a token has come, failed to come, or ended.
pub type Changed = Rc<dyn Fn()>;

/// The sources of one balancer and their tasks.
#[derive(Default)]
pub struct Keeper(Vec<Kept>);

struct Kept {
    settings: TokenSettings,
    slot: Slot,
    /// Once it runs.
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|kept| &kept.slot)).finish()
    }
}

impl Keeper {
    /// The slot of a source; the same source has one slot, however many backends use it.
    pub fn slot(&mut self, settings: &TokenSettings) -> Slot {
        if let Some(kept) = self.0.iter().find(|kept| kept.settings == *settings) {
            return kept.slot.clone();
        }
        let slot = Slot::default();
        self.0.push(Kept { settings: settings.clone(), slot: slot.clone(), task: None });
        slot
    }

    /// Forgets the sources that are not among these.
    pub fn retain(&mut self, used: &[&TokenSettings]) {
        self.0.retain(|kept| used.contains(&&kept.settings));
    }

    /// Starts what does not run yet. Must run inside a `LocalRuntime`, which it stays in.
    pub fn run(&mut self, tls: &Tls, changed: &Changed) {
        for kept in self.0.iter_mut().filter(|kept| kept.task.is_none()) {
            let (settings, slot) = (kept.settings.clone(), kept.slot.clone());
            let (tls, changed) = (tls.clone(), Rc::clone(changed));
            let task = async move {
                let ask = || fetch(&settings, &tls);
                keep(settings.source.word(), &slot, ask, &*changed).await;
            };
            kept.task = Some(tokio::task::spawn_local(task));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Asks, waits, asks again, for ever.
async fn keep<F>(source: &str, slot: &Slot, mut ask: impl FnMut() -> F, changed: &dyn Fn())
where
    F: Future<Output = Result<Fetched, TokenError>>,
{
    let mut failures = 0;
    let mut known: Option<String> = None;
    loop {
        let fetched = timeout(PATIENCE, ask()).await.unwrap_or(Err(TokenError::TimedOut));
        let now = clock::now();
        let pause = match fetched.and_then(|fetched| held(&fetched, slot, now)) {
            Ok((held, lifetime)) => {
                if failures > 0 || slot.state().held.is_none() {
                    tracing::info!(source, seconds = lifetime.as_secs(), "token obtained");
                }
                (failures, known) = (0, None);
                let pause = schedule::after_token(lifetime, fastrand::f64());
                slot.change(|state| {
                    state.held = Some(held);
                    state.trouble = None;
                    state.tried = Some(now);
                    state.next = Some(now + pause);
                });
                pause
            }
            Err(error) => {
                failures += 1;
                let text = error.to_string();
                let pause = schedule::after_failure(failures, fastrand::f64());
                slot.change(|state| {
                    state.trouble = Some(text.as_str().into());
                    state.tried = Some(now);
                    state.next = Some(now + pause);
                });
                // Once for each trouble, not for each try.
                if known.as_ref() != Some(&text) {
                    let valid = slot.current(now).is_some();
                    tracing::error!(source, error = %text, old_token_valid = valid, "no token");
                    known = Some(text);
                }
                pause
            }
        };
        changed();
        wait(source, slot, now + pause, changed).await;
    }
}

/// Until the next try, or until somebody wants one; a token that ends meanwhile is told.
async fn wait(source: &str, slot: &Slot, next: Instant, changed: &dyn Fn()) {
    let mut expires = slot.state().held.map(|held| held.expires).filter(|expires| clock::now() < *expires);
    loop {
        tokio::select! {
            () = sleep_until(next.into()) => return,
            () = slot.wanted() => return,
            () = sleep_until(expires.unwrap_or(next).into()), if expires.is_some() => {
                expires = None;
                tracing::error!(source, "the token has expired");
                changed();
            }
        }
    }
}

fn held(fetched: &Fetched, slot: &Slot, now: Instant) -> Result<(Held, Duration), TokenError> {
    let bearer = format!("Bearer {}", fetched.token.expose_secret());
    let mut header = HeaderValue::from_str(&bearer)
        .map_err(|_| TokenError::Malformed("the token has characters that cannot be sent"))?;
    header.set_sensitive(true);
    let serial = slot.state().held.map_or(1, |held| held.serial + 1);
    Ok((Held { header, expires: now + fetched.lifetime, serial }, fetched.lifetime))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::time::sleep;

    use super::*;

    type Answers = Rc<RefCell<Vec<Result<u64, TokenError>>>>;

    /// Runs a keeper whose source gives these answers in turn (lifetimes in seconds), then the last one for ever.
    fn kept(answers: Vec<Result<u64, TokenError>>, test: impl AsyncFnOnce(Slot, Rc<Cell<u32>>, Answers)) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let (slot, tries) = (Slot::default(), Rc::new(Cell::new(0)));
            let answers: Answers = Rc::new(RefCell::new(answers));
            let (of_task, counted, told) = (slot.clone(), Rc::clone(&tries), Rc::clone(&answers));
            tokio::task::spawn_local(async move {
                let ask = || {
                    counted.set(counted.get() + 1);
                    let mut told = told.borrow_mut();
                    let next = if told.len() > 1 { told.remove(0) } else { told[0].clone() };
                    let number = counted.get();
                    async move {
                        // As a real one, it takes its time.
                        sleep(Duration::from_millis(100)).await;
                        let lifetime = Duration::from_secs(next?);
                        Ok(Fetched { token: format!("token-{number}").into(), lifetime })
                    }
                };
                keep("test", &of_task, ask, &|| {}).await;
            });
            test(slot, tries, answers).await;
        });
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn refused() -> TokenError {
        TokenError::Refused { status: 401, said: "invalid_client".into() }
    }

    #[test]
    fn a_token_is_renewed_at_half_life_long_before_it_ends() {
        kept(vec![Ok(3600)], async |slot, tries, _| {
            sleep(seconds(1600)).await;
            assert_eq!((tries.get(), slot.current(clock::now()).unwrap().serial), (1, 1));
            sleep(seconds(210)).await;
            assert_eq!((tries.get(), slot.current(clock::now()).unwrap().serial), (2, 2));
            sleep(seconds(10 * 3600)).await;
            assert!((20..=26).contains(&tries.get()), "{}", tries.get());
        });
    }

    #[test]
    fn while_the_source_fails_the_old_token_is_used_to_its_end_and_not_longer() {
        kept(vec![Ok(3600), Err(refused())], async |slot, tries, answers| {
            sleep(seconds(3590)).await;
            assert!(slot.current(clock::now()).is_some());
            assert!(slot.state().trouble.unwrap().contains("invalid_client"));
            // Half an hour of pauses of up to a minute.
            assert!((25..60).contains(&tries.get()), "{}", tries.get());
            sleep(seconds(11)).await;
            assert!(slot.current(clock::now()).is_none());
            *answers.borrow_mut() = vec![Ok(3600)];
            sleep(seconds(80)).await;
            assert!(slot.current(clock::now()).is_some() && slot.state().trouble.is_none());
        });
    }

    #[test]
    fn a_hundred_requests_whose_token_was_rejected_share_one_try() {
        kept(vec![Ok(3600)], async |slot, tries, _| {
            sleep(seconds(60)).await;
            let rejected = slot.current(clock::now()).unwrap().serial;
            let asking = (0..100).map(|_| {
                let slot = slot.clone();
                tokio::task::spawn_local(async move { slot.newer_than(rejected, clock::now()).await })
            });
            for asked in asking.collect::<Vec<_>>() {
                assert_eq!(asked.await.unwrap().unwrap().serial, rejected + 1);
            }
            assert_eq!(tries.get(), 2);
            // The new one is rejected as well: that is not mended by asking.
            assert!(slot.newer_than(rejected + 1, clock::now()).await.is_none());
            assert_eq!(tries.get(), 2);
        });
    }

    #[test]
    fn a_request_does_not_wait_long_for_a_source_that_is_silent() {
        kept(vec![Ok(3600)], async |slot, _, answers| {
            sleep(seconds(60)).await;
            *answers.borrow_mut() = vec![Err(TokenError::TimedOut)];
            let began = clock::now();
            assert!(slot.newer_than(1, began).await.is_none());
            assert!(clock::now() - began <= seconds(5));
        });
    }

    #[test]
    fn one_source_has_one_slot_and_a_forgotten_one_stops() {
        let settings = |scope: &str| TokenSettings {
            source: super::super::TokenSource::AzureCli { tenant_id: None },
            scope: scope.into(),
        };
        let mut keeper = Keeper::default();
        let (one, other) = (settings("a"), settings("b"));
        let slot = keeper.slot(&one);
        slot.change(|state| state.trouble = Some("known".into()));
        assert!(keeper.slot(&one).state().trouble.is_some());
        assert!(keeper.slot(&other).state().trouble.is_none());
        keeper.retain(&[&other]);
        assert!(keeper.slot(&one).state().trouble.is_none());
    }
}
