//! Where a body ends.

use super::rows::{CLAUSES, Once, Refused, Rows, Status};

pub(super) fn framing(rows: &mut Rows) {
    rows.of(CLAUSES[0]);
    for length in ["0", "4", "5", "60"] {
        for coding in ["chunked", "Chunked", "identity", "xchunked"] {
            let (length, coding) = (
                format!("Content-Length: {length}"),
                format!("Transfer-Encoding: {coding}"),
            );
            rows.post(Refused, &format!("{length}\r\n{coding}"), "0\r\n\r\n");
            rows.post(Refused, &format!("{coding}\r\n{length}"), "0\r\n\r\n");
        }
    }
    lengths(rows);
    codings(rows);
}

fn lengths(rows: &mut Rows) {
    rows.of(CLAUSES[1]);
    for value in [
        "5, 5",
        "5,5",
        "5,6",
        ",5",
        "5,",
        "5;5",
        "5 5",
        "5\t5",
        "+5",
        "-5",
        "+0",
        "-0",
        "0x5",
        "0X5",
        "0o5",
        "5h",
        "5.0",
        "5e0",
        "5_0",
        "1'000",
        "",
        " ",
        "five",
        "NaN",
        "inf",
        "\u{665}",
        "\u{ff15}",
        "5\u{a0}",
        "\u{feff}5",
        "\"5\"",
        "5%",
        "%35",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999",
        "340282366920938463463374607431768211461",
        "-18446744073709551611",
    ] {
        rows.post(Refused, &format!("Content-Length: {value}"), "abcde");
    }
    for value in [
        "1048577",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
    ] {
        rows.post(Status(413), &format!("Content-Length: {value}"), "abcde");
    }
    for (first, second) in [
        ("5", "5"),
        ("5", "6"),
        ("0", "5"),
        ("5", "0"),
        ("5", ""),
        ("", "5"),
    ] {
        for name in ["Content-Length", "content-length", "CONTENT-LENGTH"] {
            let both = format!("Content-Length: {first}\r\nX-A: b\r\n{name}: {second}");
            rows.post(Refused, &both, "abcde");
        }
    }
    for value in ["5", "05", "0000000000000000000005", "5 ", "\t5\t"] {
        rows.post(Once, &format!("Content-Length: {value}"), "abcde");
    }
    rows.post(Once, "Content_Length: 9\r\nContent-Length: 5", "abcde");
    rows.post(
        Once,
        "Content-Length: 5\r\nTransfer_Encoding: chunked",
        "abcde",
    );
}

fn codings(rows: &mut Rows) {
    rows.of(CLAUSES[2]);
    for value in [
        "identity",
        "gzip",
        "deflate",
        "compress",
        "br",
        "trailers",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,chunked",
        "chunked, identity",
        "identity, chunked",
        "chunked,",
        ",chunked",
        ", chunked",
        "chunked;q=1",
        "chunked;a=b",
        "xchunked",
        "chunkedx",
        "chunke",
        "x chunked",
        "chunked x",
        "\"chunked\"",
        "'chunked'",
        "(chunked)",
        "chunked\u{a0}",
        "\u{b}chunked",
        "chunked\u{b}",
        "chunked\u{c}",
        "\u{85}chunked",
        "chun\u{212a}ed",
        "",
        "=",
        "chunked\u{0}",
        "c",
        "nope",
        "chunked/1",
        "%63hunked",
        "\u{feff}chunked",
    ] {
        rows.post(Refused, &format!("Transfer-Encoding: {value}"), "0\r\n\r\n");
    }
    for (first, second) in [
        ("chunked", "chunked"),
        ("chunked", "gzip"),
        ("gzip", "chunked"),
        ("", "chunked"),
        ("chunked", ""),
    ] {
        for name in ["Transfer-Encoding", "transfer-encoding"] {
            let both = format!("Transfer-Encoding: {first}\r\nX-A: b\r\n{name}: {second}");
            rows.post(Refused, &both, "0\r\n\r\n");
        }
    }
    for line in [
        "Transfer-Encoding:\tchunked",
        "transfer-encoding:chunked ",
        "TRANSFER-ENCODING: CHUNKED",
    ] {
        rows.post(Once, line, "0\r\n\r\n");
    }
    rows.of(CLAUSES[3]);
    for method in ["POST", "GET", "PUT"] {
        for value in ["chunked", "Chunked", "identity", "gzip, chunked"] {
            let line = format!("{method} /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: {value}");
            rows.add(Refused, format!("{line}\r\n\r\n0\r\n\r\n"));
            rows.add(
                Refused,
                format!("{line}\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n"),
            );
        }
    }
}

pub(super) fn chunks(rows: &mut Rows) {
    rows.of(CLAUSES[14]);
    let mut chunked = |expect, body: &str| rows.post(expect, "Transfer-Encoding: chunked", body);
    for size in [
        "0x1",
        "0X1",
        "-1",
        "+1",
        " 1",
        "1 ",
        "\t1",
        "1\t",
        "",
        ";x",
        "g",
        "1g",
        "1,1",
        "1.0",
        "1h",
        "#1",
        "\u{ff11}",
        "000000001",
        "fffffffff",
        "ffffffffffffffff",
        "10000000000000000",
        "1\r",
        "1;\u{0}",
        "1;a\u{1}",
        "1;a\rb",
        "-0",
        "0x0",
        "+0",
        "0 ",
        "00000000000000000000",
    ] {
        chunked(Refused, &format!("{size}\r\na\r\n0\r\n\r\n"));
    }
    for body in [
        "1\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na\r\n0\n\r\n",
        "1\r\na\r\n0\r\n\n",
        "1\na\n0\n\n",
        "1\r\nab\r\n0\r\n\r\n",
        "2\r\na\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "1\r\na\r0\r\n\r\n",
        "1\ra\r\n0\r\n\r\n",
        "1\r\na\r\n0\r\n",
        "1\r\na\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        "1\r\na\r\n0\r\n a: b\r\n\r\n",
        "1\r\na\r\n0\r\na : b\r\n\r\n",
        "1\r\na\r\n0\r\n: b\r\n\r\n",
        "1\r\na\r\n0\r\na: b\n\r\n",
        "1\r\na\r\n0\r\na: \u{0}\r\n\r\n",
        "1;a=b\nc\r\na\r\n0\r\n\r\n",
        "1\r\n\r\na0\r\n\r\n",
    ] {
        chunked(Refused, body);
    }
    let trailers = "a: b\r\n".repeat(17);
    chunked(Refused, &format!("0\r\n{trailers}\r\n"));
    chunked(
        Refused,
        &format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(5_000)),
    );
    for body in [
        "1\r\na\r\n0\r\n\r\n",
        "00000001\r\na\r\n00\r\n\r\n",
        "A\r\n0123456789\r\n0\r\n\r\n",
        "1;a=\"b\"\r\na\r\n0;c\r\nContent-Length: 9\r\nHost: evil\r\n\r\n",
    ] {
        chunked(Once, body);
    }
}
