//! What the demo leaves on the screen.

use std::time::Duration;

use super::boot::Seat;
use super::checks::Disk;
use super::plan::Retention;
use super::server::Memory;

/// One machine's figures.
struct Row {
    name: String,
    retention: Retention,
    login: Duration,
    disk: Disk,
    again: Option<Duration>,
}

/// The figures of the run.
#[derive(Default)]
pub struct Summary {
    rows: Vec<Row>,
    memory: Option<Memory>,
}

impl Summary {
    /// Takes the figures of the first boot: of each machine, and what its disk costs.
    pub fn first_boot(&mut self, seats: &[Seat], disks: Vec<Disk>) {
        let row = |(seat, disk): (&Seat, Disk)| Row {
            name: seat.desk.name.clone(),
            retention: seat.desk.retention,
            login: seat.login,
            disk,
            again: None,
        };
        self.rows = seats.iter().zip(disks).map(row).collect();
    }

    /// Takes the figures of the second boot.
    pub fn second_boot(&mut self, seats: &[Seat]) {
        for (row, seat) in self.rows.iter_mut().zip(seats) {
            row.again = Some(seat.login);
        }
    }

    /// Takes what the server uses of the computer's memory.
    pub fn server(&mut self, memory: Memory) {
        self.memory = Some(memory);
    }

    /// The summary, line by line.
    pub fn lines(&self) -> Vec<String> {
        let heading = format!(
            "  {:<10}{:>10}{:>10}{:>17}{:>13}{:>13}",
            "machine", "retention", "login", "overlay on disk", "guest wrote", "login again"
        );
        let mut lines = vec![heading];
        lines.extend(self.rows.iter().map(line));
        lines.extend(self.memory.map(|memory| {
            let (own, file) = (mebibytes(memory.own), mebibytes(memory.file));
            format!("  server    {own} of memory of its own, {file} of shared file pages")
        }));
        lines
    }
}

fn line(row: &Row) -> String {
    format!(
        "  {:<10}{:>10}{:>10}{:>17}{:>13}{:>13}",
        row.name,
        row.retention.name(),
        seconds(row.login),
        mebibytes(row.disk.overlay),
        mebibytes(row.disk.written),
        row.again.map(seconds).unwrap_or_default(),
    )
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A number of bytes for people.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_under_their_headings() {
        let disk = Disk {
            overlay: 3 << 19,
            written: 2 << 20,
        };
        let row = Row {
            name: "desk-1".into(),
            retention: Retention::Boot,
            login: Duration::from_millis(41_250),
            disk,
            again: Some(Duration::from_secs(39)),
        };
        let memory = Some(Memory {
            own: 1 << 20,
            file: 2 << 20,
        });
        let lines = Summary {
            rows: vec![row],
            memory,
        }
        .lines();
        assert_eq!(lines[0].len(), lines[1].len());
        for figure in ["desk-1", "boot", "41.2 s", "1.5 MiB", "2.0 MiB", "39.0 s"] {
            assert!(lines[1].contains(figure), "{figure} in {}", lines[1]);
        }
        assert!(lines[2].contains("1.0 MiB of memory of its own"));
    }
}
