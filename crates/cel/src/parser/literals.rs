//! Literals: numbers, text, lists, maps and objects.

use super::{FIELD, LIST_ELEMENT, MAP_KEY, Parse, Parser, ends_operand, literal, starts_operand};
use crate::ast::{Element, Entry, Expr, ExprKind, FieldInit, Literal, NodeId};
use crate::lexer::Kind;
use crate::unescape;

impl Parser<'_> {
    pub(super) fn list(&mut self) -> Parse<Expr> {
        let open = self.advance();
        let id = self.id(open);
        let mut elements = Vec::new();
        while !self.is("]") && self.kind() != Kind::End {
            if self.is(",") {
                self.advance();
                break;
            }
            let token = self.token();
            let optional = self.optional_mark("?", token);
            if elements.is_empty() && !optional && !starts_operand(self.kind()) {
                let value = self.no_operand(LIST_ELEMENT)?;
                elements.push(Element { value, optional });
            } else {
                elements.push(Element { value: self.expr()?, optional });
            }
            if self.accept(",").is_none() {
                break;
            }
        }
        self.expect("]", ends_operand)?;
        Ok(Expr { id, kind: ExprKind::List(elements) })
    }

    pub(super) fn map(&mut self) -> Parse<Expr> {
        let open = self.advance();
        let id = self.id(open);
        let mut entries = Vec::new();
        while !self.is("}") && self.kind() != Kind::End {
            if self.is(",") {
                self.advance();
                break;
            }
            let token = self.token();
            let optional = self.optional_mark("?", token);
            let key = if !optional && entries.is_empty() && !starts_operand(self.kind()) {
                self.no_operand(MAP_KEY)?
            } else {
                self.expr()?
            };
            let Some((entry, value)) = self.entry_value()? else { break };
            entries.push(Entry { id: entry, key, value, optional });
            if self.accept(",").is_none() {
                break;
            }
        }
        self.close_brace()?;
        Ok(Expr { id, kind: ExprKind::Map(entries) })
    }

    /// What follows a key: a colon, and the value; none where the rest is passed over.
    fn entry_value(&mut self) -> Parse<Option<(NodeId, Expr)>> {
        let colon = self.token();
        self.expect(":", starts_operand)?;
        let id = self.id(colon);
        if self.recovering {
            return Ok(None);
        }
        Ok(Some((id, self.expr()?)))
    }

    fn close_brace(&mut self) -> Parse<()> {
        self.expect("}", ends_operand)
    }

    pub(super) fn struct_literal(&mut self, name: &str) -> Parse<Expr> {
        let open = self.advance();
        let id = self.id(open);
        let mut fields = Vec::new();
        while !self.is("}") && self.kind() != Kind::End {
            if self.is(",") {
                self.advance();
                break;
            }
            let token = self.token();
            let optional = self.optional_mark("?", token);
            if !matches!(self.kind(), Kind::Ident | Kind::EscapedIdent) {
                let skips = matches!(self.kind_after(), Kind::Ident | Kind::EscapedIdent);
                self.unexpected(if skips { "extraneous" } else { "mismatched" }, FIELD);
                self.recover()?;
                self.at += usize::from(skips);
            }
            let Some(field) = self.field_name() else { break };
            let Some((field_id, value)) = self.entry_value()? else { break };
            fields.push(FieldInit { id: field_id, field, value, optional });
            if self.accept(",").is_none() {
                break;
            }
        }
        self.close_brace()?;
        Ok(Expr { id, kind: ExprKind::Struct { name: name.into(), fields } })
    }

    pub(super) fn number(&mut self) -> Parse<Expr> {
        let first = self.token();
        let sign = if self.accept("-").is_some() { "-" } else { "" };
        let token = self.advance();
        let text = format!("{sign}{}", self.text(token));
        let (value, what) = match token.kind {
            Kind::Int => (int(&text).map(Literal::Int), "int"),
            Kind::Uint => (uint(&text).map(Literal::Uint), "uint"),
            _ => {
                let value = text.parse::<f64>().ok().filter(|it| it.is_finite());
                (value.map(Literal::Double), "double")
            }
        };
        let id = self.id(first);
        match value {
            Some(value) => Ok(literal(id, value)),
            None => {
                self.report_at(first, format!("invalid {what} literal"));
                Ok(Expr { id, kind: ExprKind::Error })
            }
        }
    }

    pub(super) fn string(&mut self) -> Parse<Expr> {
        let token = self.advance();
        let id = self.id(token);
        let text = self.text(token);
        let value = match token.kind {
            Kind::Bytes => unescape::bytes(&text).map(|it| Literal::Bytes(it.into())),
            _ => unescape::string(&text).map(|it| Literal::String(it.into())),
        };
        match value {
            Some(value) => Ok(literal(id, value)),
            None => {
                self.report_at(token, "unable to unescape string".into());
                Ok(Expr { id, kind: ExprKind::Error })
            }
        }
    }
}

fn int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits.strip_prefix("0x") {
        Some(hex) if digits.len() < text.len() => i64::from_str_radix(&format!("-{hex}"), 16).ok(),
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn uint(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['u', 'U']);
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}
