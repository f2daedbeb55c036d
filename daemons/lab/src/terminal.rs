//! What the terminal can show: colours, and lists that fit in.

use rustix::termios::tcgetwinsize;
use std::io::{IsTerminal, stdout};

/// The columns of the terminal that standard output is; nothing where it is none, so that a program gets whole lines.
pub(crate) fn width() -> Option<usize> {
    let columns = tcgetwinsize(stdout()).ok()?.ws_col;
    (columns > 0).then_some(usize::from(columns))
}

/// Whether what is written to standard output may have colours: on a terminal that shows them, unless `NO_COLOR` is set
/// (<https://no-color.org>).
pub(crate) fn has_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stdout().is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `items` with `between` between them, in lines that begin at column `indent` and end before `width`. The first has begun there
/// already.
pub(crate) fn fold(items: &[String], between: &str, indent: usize, width: Option<usize>) -> String {
    let (mut text, mut column) = (String::new(), indent);
    for (index, item) in items.iter().enumerate() {
        let is_last = index + 1 == items.len();
        let end = if is_last { "" } else { between.trim_end() };
        let octets = item.chars().count() + end.len();
        let blanks = between.len() - between.trim_end().len();
        match index {
            0 => {}
            _ if width.is_some_and(|width| column + blanks + octets > width) => {
                text.push('\n');
                text.push_str(&" ".repeat(indent));
                column = indent;
            }
            _ => {
                text.push_str(&" ".repeat(blanks));
                column += blanks;
            }
        }
        text.push_str(item);
        text.push_str(end);
        column += octets;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_in_the_next_line_where_the_terminal_ends() {
        let items = ["smtp 25", "submission 587", "pop3 110"].map(str::to_owned);
        assert_eq!(fold(&items, ", ", 10, None), "smtp 25, submission 587, pop3 110");
        assert_eq!(fold(&items, ", ", 10, Some(43)), "smtp 25, submission 587, pop3 110");
        assert_eq!(fold(&items, ", ", 10, Some(42)), "smtp 25, submission 587,\n          pop3 110");
        assert_eq!(fold(&items, "  ", 2, Some(5)), "smtp 25\n  submission 587\n  pop3 110");
        assert_eq!(fold(&[], ", ", 2, Some(5)), "");
    }
}
