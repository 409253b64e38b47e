//! The few styles of the live view.
//!
//! The terminal's own sixteen colours, so that a light or dark theme of the user decides how they
//! look; faint text is the dim attribute, because "bright black" vanishes in some themes.

use ratatui::style::{Color, Modifier, Style};

use super::status::State;

/// Styles with or without colour (`NO_COLOR`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    colour: bool,
}

impl Palette {
    pub(super) const fn new(colour: bool) -> Self {
        Self { colour }
    }

    pub(super) const fn plain(self) -> Style {
        Style::new()
    }

    pub(super) const fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) const fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// A name, which the keys have `chosen` or not.
    pub(super) const fn name(self, chosen: bool) -> Style {
        if chosen { self.bold().add_modifier(Modifier::REVERSED) } else { self.bold() }
    }

    /// Serving.
    pub(super) const fn good(self) -> Style {
        self.tinted(Color::Green)
    }

    /// Throttled, cooling.
    pub(super) const fn throttled(self) -> Style {
        self.tinted(Color::Yellow)
    }

    /// Failed, resting, refused.
    pub(super) const fn failed(self) -> Style {
        self.tinted(Color::Red)
    }

    /// The product's own accent.
    pub(super) const fn accent(self) -> Style {
        self.tinted(Color::Cyan)
    }

    pub(super) const fn state(self, state: State) -> Style {
        match state {
            State::Admitting => self.good(),
            State::Cooling => self.throttled(),
            State::Resting | State::Refused | State::Absent | State::Unused => self.failed(),
            State::Probing => self.accent(),
            State::Drained | State::Unknown => self.dim(),
        }
    }

    const fn tinted(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
}
