//! What keys do. At the list they choose a backend, which Enter opens; there they choose a deployment, and Esc
//! goes back.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::view::{Shown, ViewState};

/// Does what a key asks; true when it asks to end.
pub(super) fn press(state: &mut ViewState, key: KeyEvent, shown: Shown) -> bool {
    match key.code {
        KeyCode::Char('q' | 'Q') => return true,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Esc if state.detail.is_none() => return true,
        _ => {}
    }
    if state.detail.is_some() {
        at_detail(state, key.code, shown);
    } else {
        at_list(state, key.code, shown);
    }
    false
}

fn at_list(state: &mut ViewState, code: KeyCode, shown: Shown) {
    let backends = state.status.as_ref().map_or(0, |status| status.backends.len());
    let Some(last) = backends.checked_sub(1) else { return };
    let first = state.scroll.min(shown.last);
    // The first key chooses what is in sight.
    let chosen = state.chosen.map(|chosen| chosen.min(last));
    let moved = |by: usize| chosen.map_or(first, |chosen| chosen.saturating_add(by)).min(last);
    let back = |by: usize| chosen.map_or(first, |chosen| chosen.saturating_sub(by));
    let page = shown.page.max(1);
    let chosen = match code {
        KeyCode::Down | KeyCode::Char('j') => moved(1),
        KeyCode::Up | KeyCode::Char('k') => back(1),
        KeyCode::PageDown | KeyCode::Char(' ') => moved(page),
        KeyCode::PageUp => back(page),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => last,
        KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => {
            let chosen = chosen.unwrap_or(first);
            state.open(chosen);
            chosen
        }
        _ => return,
    };
    state.chosen = Some(chosen);
    // Just so far that it is in sight.
    state.scroll = first.clamp((chosen + 1).saturating_sub(page), chosen).min(shown.last);
}

fn at_detail(state: &mut ViewState, code: KeyCode, shown: Shown) {
    let lanes = state.looked_at().map_or(0, |backend| backend.lanes.len());
    let Some(detail) = &mut state.detail else { return };
    let lane = detail.lane.min(lanes.saturating_sub(1));
    let first = detail.scroll.min(shown.last);
    match code {
        KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Char('h') => state.detail = None,
        KeyCode::Down | KeyCode::Char('j') if lane + 1 < lanes => detail.choose(lane + 1),
        KeyCode::Up | KeyCode::Char('k') if lane > 0 => detail.choose(lane - 1),
        KeyCode::PageDown | KeyCode::Char(' ') => detail.scroll = (first + shown.page).min(shown.last),
        KeyCode::PageUp => detail.scroll = first.saturating_sub(shown.page),
        KeyCode::Home | KeyCode::Char('g') => detail.scroll = 0,
        KeyCode::End | KeyCode::Char('G') => detail.scroll = shown.last,
        _ => {}
    }
}
