/** The members of an object as EBNF: those that are declared, in order, then others, whose names are not among them. */
import {
  characterClass,
  CODE_POINT_MAX,
  complement,
  literal,
  type Range,
  repeated,
  type Rules,
} from "./ebnf.ts";
import type { Body, JsonRules } from "./json-rules.ts";
import { list, plainCharacter } from "./json-rules.ts";

export interface Members {
  declared: readonly { name: string; isRequired: boolean; value: string }[];
  /** Others: null for none; a key of null is any name that is not declared. */
  additional: { key: string | null; value: () => string } | null;
  /** How many there are; where some are declared, 0 and null. */
  min: number;
  max: number | null;
}

interface Context {
  rules: Rules;
  json: JsonRules;
}

export function membersBody({ declared, additional, min, max }: Members, { rules, json }: Context): Body {
  const member = (key: string, value: string) => `${key} ":" ${json.gap} ${value}`;
  const other = () => {
    if (additional === null) return null;
    const key = additional.key ?? (declared.length > 0 ? otherName(declared, rules) : json.string());
    return rules.add(member(key, additional.value()));
  };
  const more = other();
  if (declared.length === 0)
    return more === null ? { body: "", canBeEmpty: true } : list(more, json.comma, min, max);
  const own = declared.map(({ name, value }) => rules.add(member(literal(JSON.stringify(name)), value)));
  const tails = tailsOf({ declared, own, more }, { rules, json });
  return {
    body: headOf({ declared, own, more }, tails, json),
    canBeEmpty: !declared.some(({ isRequired }) => isRequired),
  };
}

interface Parts {
  declared: Members["declared"];
  /** Rules of the declared members, and of any other. */
  own: readonly string[];
  more: string | null;
}

/** Entry i: what may follow when the members before i are behind us, and at least one was there. */
function tailsOf({ declared, own, more }: Parts, { rules, json }: Context): string[] {
  const tails = [more === null ? literal("") : rules.add(repeated(`${json.comma} ${more}`, 0, null))];
  for (let index = own.length - 1; index > 0; index--) {
    const rest = tails[0];
    const taken = `${json.comma} ${own[index]} ${rest}`;
    tails.unshift(rules.add(declared[index].isRequired ? taken : `${taken} | ${rest}`));
  }
  return [literal(""), ...tails];
}

/** The first member that is there, and what follows it: any up to the first that is required. */
function headOf({ declared, own, more }: Parts, tails: readonly string[], json: JsonRules): string {
  const firstRequired = declared.findIndex(({ isRequired }) => isRequired);
  const count = firstRequired < 0 ? own.length : firstRequired + 1;
  const heads = own.slice(0, count).map((member, index) => `${member} ${tails[index + 1]}`);
  if (firstRequired < 0 && more !== null) heads.push(list(more, json.comma, 1, null).body);
  return `(${heads.join(" | ")})`;
}

interface Node {
  isEnd: boolean;
  children: Map<string, Node>;
}

/** A name that is none of these, quotes included; written without escapes, in which these could hide. */
function otherName(declared: Members["declared"], rules: Rules): string {
  const root: Node = { isEnd: false, children: new Map() };
  for (const { name } of declared) {
    let node = root;
    for (const character of name) {
      const child = node.children.get(character) ?? { isEnd: false, children: new Map() };
      node.children.set(character, child);
      node = child;
    }
    node.isEnd = true;
  }
  const rest = rules.shared("name-rest", () => `${literal('"')} | ${plainCharacter} name-rest`);
  return `${literal('"')} ${otherThan(root, rest, rules)}`;
}

function otherThan({ isEnd, children }: Node, rest: string, rules: Rules): string {
  const isPlain = (character: string) => character >= " " && character !== '"' && character !== "\\";
  const known = [...children].filter(([character]) => isPlain(character));
  const taken = known.map(([character]): Range => [
    character.codePointAt(0) ?? 0,
    character.codePointAt(0) ?? 0,
  ]);
  const unfree: Range[] = [...taken, [0x00, 0x1f], [0x22, 0x22], [0x5c, 0x5c]];
  // All but some of what is beyond ASCII cannot be expressed; then nothing of it goes on.
  const free =
    characterClass(complement(unfree)) ?? characterClass(complement([...unfree, [0x80, CODE_POINT_MAX]]));
  return rules.add(
    [
      ...(isEnd ? [] : [literal('"')]),
      ...known.map(([character, child]) => `${literal(character)} ${otherThan(child, rest, rules)}`),
      `${free} ${rest}`,
    ].join(" | "),
  );
}
