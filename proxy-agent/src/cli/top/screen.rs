//! What is on the screen, and what keys do to it. Reads nothing: what it shows is given to it.

use proxy_common::ServiceId;
use ratatui::{
    Frame,
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    text::Line,
    widgets::{Cell, Row, Table, TableState},
};

use super::{
    super::print::or_dash,
    backends::{BackendOrder, BackendRates},
    rates::{Order, Rates, short, sort},
};

/// What the screen shows.
#[derive(Debug, Default)]
pub(super) struct Screen {
    order: Order,
    /// The Service that was asked for by name.
    wanted: Option<String>,
    rows: Vec<Rates>,
    /// The Service that is marked; whatever order the rows are in, it stays so.
    marked: Option<String>,
    /// The Service whose backends are shown.
    opened: Option<(ServiceId, String)>,
    backends: Vec<BackendRates>,
    backend_order: BackendOrder,
}

/// What a key asks for, beside what the screen does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To go on.
    None,
    /// To end.
    End,
}

impl Screen {
    /// Shows those that were asked for by name, if somebody was, or all.
    pub(super) fn new(order: Order, wanted: Option<String>) -> Self {
        Self { order, wanted, ..Self::default() }
    }

    /// Shows these rates from now on.
    pub(super) fn set_rates(&mut self, rows: Vec<Rates>) {
        self.rows = rows;
        sort(&mut self.rows, self.order);
    }

    /// Shows these backends from now on, if a Service's are shown.
    pub(super) fn set_backends(&mut self, backends: Vec<BackendRates>) {
        self.backends = backends;
        self.backend_order.sort(&mut self.backends);
    }

    /// The Service whose backends are shown.
    pub(super) fn opened(&self) -> Option<ServiceId> {
        self.opened.as_ref().map(|(id, _)| *id)
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::None;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::End,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::End,
            KeyCode::Char(letter) if self.opened.is_some() => {
                if let Some(order) = BackendOrder::ALL.into_iter().find(|order| order.name().starts_with(letter)) {
                    self.backend_order = order;
                    order.sort(&mut self.backends);
                }
            }
            KeyCode::Char(letter) => {
                if let Some(order) = Order::ALL.into_iter().find(|order| order.name().starts_with(letter)) {
                    self.order = order;
                    sort(&mut self.rows, order);
                }
            }
            KeyCode::Up => self.mark(|at| at.saturating_sub(1)),
            KeyCode::Down => self.mark(|at| at + 1),
            KeyCode::Home => self.mark(|_| 0),
            KeyCode::End => self.mark(|_| usize::MAX),
            KeyCode::Enter => {
                let row = self.marked_index().and_then(|index| self.rows.get(index));
                self.opened = row.and_then(|row| Some((row.id?, row.service.clone())));
                self.backends.clear();
            }
            KeyCode::Esc | KeyCode::Backspace => self.opened = None,
            _ => {}
        }
        Wish::None
    }

    fn mark(&mut self, next: impl FnOnce(usize) -> usize) {
        let last = self.rows.len().saturating_sub(1);
        let index = next(self.marked_index().unwrap_or_default()).min(last);
        self.marked = self.rows.get(index).map(|row| row.service.clone());
    }

    /// The marked row: the first one, if the marked Service is not there.
    fn marked_index(&self) -> Option<usize> {
        let found = self.marked.as_ref().and_then(|marked| self.rows.iter().position(|row| row.service == *marked));
        found.or((!self.rows.is_empty()).then_some(0))
    }

    /// Draws everything.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [title, body, help] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(2), Constraint::Length(1)]).areas(frame.area());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match &self.opened {
            None => {
                frame.render_widget(
                    Line::styled(format!("Services, by {} in a second", self.order.name()), bold),
                    title,
                );
                let mut state = TableState::new().with_selected(self.marked_index());
                if self.rows.is_empty() {
                    frame.render_widget(Line::raw(self.emptiness()), body);
                } else {
                    frame.render_stateful_widget(self.services().header(heading(&HEADINGS)), body, &mut state);
                }
                let keys = "c connections  p packets  b bytes  d drops  n name  ↑↓ Enter backends  q end";
                frame.render_widget(Line::raw(keys), help);
            }
            Some((_, service)) => {
                let order = self.backend_order.name();
                frame.render_widget(Line::styled(format!("Backends of {service}, by {order}"), bold), title);
                let rows = self.backends.iter().map(|BackendRates { backend, pod, connections, new }| {
                    let pod = or_dash(pod.as_ref());
                    Row::new([backend.to_string(), pod, format!("{connections:>11}"), format!("{:>8}", short(*new))])
                });
                let widths = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(11), Constraint::Length(8)];
                let headings = ["BACKEND", "POD", "CONNECTIONS", "   NEW/S"];
                frame.render_widget(Table::new(rows, widths).header(heading(&headings)), body);
                frame.render_widget(Line::raw("c connections  n new  a address  Esc back  q end"), help);
            }
        }
    }

    fn emptiness(&self) -> String {
        match &self.wanted {
            Some(service) => format!("This node serves no Service {service} at present."),
            None => "This node serves no Service.".to_owned(),
        }
    }

    fn services(&self) -> Table<'_> {
        let rows = self.rows.iter().map(|row| {
            let [service, rates @ ..] = cells(row);
            Row::new(std::iter::once(service).chain(rates.map(|rate| format!("{rate:>8}"))).map(Cell::from))
        });
        let widths = [Constraint::Fill(1)].into_iter().chain([Constraint::Length(8); 6]);
        Table::new(rows, widths).row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
    }
}

const HEADINGS: [&str; 7] = ["SERVICE", "  CONN/S", "   PKT/S", "     B/S", " R-PKT/S", "   R-B/S", "  DROP/S"];

fn heading<'a>(headings: &[&'a str]) -> Row<'a> {
    Row::new(headings.iter().map(|heading| Cell::from(*heading))).style(Style::new().add_modifier(Modifier::BOLD))
}

/// The Service, and its rates in the order of the columns.
pub(super) fn cells(row: &Rates) -> [String; 7] {
    let Rates { id: _, service, connections, packets, bytes, reply_packets, reply_bytes, drops } = row;
    let [connections, packets, bytes, reply_packets, reply_bytes, drops] =
        [connections, packets, bytes, reply_packets, reply_bytes, drops].map(|rate| short(*rate));
    [service.clone(), connections, packets, bytes, reply_packets, reply_bytes, drops]
}
