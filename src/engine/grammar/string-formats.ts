/** The `format`s of strings that are enforced, as patterns of the whole string: RFC 3339, 4122, 5321, 1123, 3986, 2673, 4291. */

const leapYear = String.raw`(\d\d([2468][048]|[13579][26]|0[48])|([02468][048]|[13579][26])00)`;
const day = String.raw`(0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8])`;
const date = String.raw`(${leapYear}-02-29|\d{4}-(${day}))`;
const time = String.raw`([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)`;
const label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const hostname = String.raw`${label}(\.${label}){0,7}`;
const byte = String.raw`(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`;
const ipv4 = String.raw`${byte}(\.${byte}){3}`;
const group = "[0-9A-Fa-f]{1,4}";
/** Whole, or with one "::" that stands for at least one group. */
const ipv6 = [
  `(${group}:){7}${group}`,
  `(${group}:){1,7}:`,
  `:(:${group}){1,7}`,
  "::",
  ...Array.from({ length: 6 }, (_, index) => `(${group}:){${index + 1}}(:${group}){1,${6 - index}}`),
].join("|");
const uriCharacter = "([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})";

export const stringFormats: ReadonlyMap<string, string> = new Map([
  ["date", date],
  ["time", time],
  ["date-time", `${date}T${time}`],
  [
    "duration",
    String.raw`P(\d{1,9}W|(\d{1,9}Y)?(\d{1,9}M)?(\d{1,9}D)?T(\d{1,9}H(\d{1,9}M)?(\d{1,9}S)?|\d{1,9}M(\d{1,9}S)?|\d{1,9}S)|\d{1,9}Y(\d{1,9}M(\d{1,9}D)?)?|\d{1,9}M(\d{1,9}D)?|\d{1,9}D)`,
  ],
  [
    "email",
    String.raw`[A-Za-z0-9!#$%&'*+/=?^_{|}~-]{1,64}(\.[A-Za-z0-9!#$%&'*+/=?^_{|}~-]{1,64}){0,7}@${hostname}`,
  ],
  ["hostname", hostname],
  ["idn-hostname", hostname],
  ["ipv4", ipv4],
  ["ipv6", ipv6],
  ["uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"],
  [
    "uri",
    String.raw`[A-Za-z][A-Za-z0-9+.-]*:${uriCharacter}*(\?(${uriCharacter}|\?)*)?(#(${uriCharacter}|\?)*)?`,
  ],
]);
