/**
 * What the tokenizer makes of a prompt, as conjure_lib/reading.py says it: what is read, what is
 * lost, and what becomes the same. A character is not read where the tokens stay the same without
 * it, or with another in its place.
 */

const SHOWN = 6; // things that a sentence names
const LONG = 80; // characters of a text that it shows
const visible = (c) => !/[\p{Z}\p{M}\p{Cc}\p{Cf}\u115f\u1160\u2800\u3164\uffa0]/u.test(c);
const blank = /[\p{Z}\t-\r\x1c-\x1f\x85]/u; // what Python's isspace says
const drawn = /[\p{L}\p{N}\p{P}\p{S}]/u;
const point = (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const short = (text) => ([...text].length > LONG ? `${[...text].slice(0, LONG - 1).join("")}…` : text);
const quoted = (text) => (drawn.test(text) ? `“${short(text)}”` : [...text].map(point).join(" "));

/** A text in small letters, each by itself. */
export const small = (text) => [...text].map((c) => c.toLowerCase()).join("");

/** Why a text cannot be a prompt: "is empty", "is blank", …; null where it can. */
export function fault(text) {
  if (!text) return "is empty: write some text";
  const broken = [...text].findIndex((c) => /\p{Cs}/u.test(c));
  if (broken >= 0) {
    const half = point([...text][broken]);
    return (
      `holds half a character at position ${broken} (${half} alone): it was read in another ` +
      "encoding than its own; read or type it as UTF-8"
    );
  }
  if ([...text].some(visible)) return null;
  const hidden = [...new Set(text)].filter((c) => !blank.test(c)).map(point);
  return `is blank${hidden.length ? ` (nothing of ${hidden.join(" ")} can be seen)` : ""}: write some text`;
}

/**
 * What is read of a prompt: {read, written, lost, folded}. The first two count tokens; `lost` says
 * in sentences what is not read, `folded` what is read as something that means the same to most.
 */
export function reading(reader, prompt) {
  const { ids, tokens } = reader.tokenize(prompt);
  const lost = [];
  const cut = tokens.slice(reader.room);
  if (cut.length) {
    const text = cut.join(" ").replaceAll(" ##", "").replace(/^##/, "");
    lost.push(
      `the text encoder reads ${reader.room} tokens and this prompt has ${ids.length}: ` +
        `the last ${cut.length} are cut (“${short(text)}”)`,
    );
  }
  const kept = tokens.slice(0, reader.room);
  const { unknown, signs, heard } = words(reader, prompt);
  const { dropped, replaced, folded } = trials(reader, prompt, ids.join(), heard);
  const unread = [...unknown, ...dropped].map(quoted);
  if (unread.length) lost.push(`the text encoder does not read ${list(unread)}`);
  if (signs.length) {
    lost.push(`the text encoder reads ${list(signs.map(quoted))} as signs of its own and not as text`);
  }
  if (replaced.length) lost.push(`the text encoder reads ${list(replaced)}`);
  const read = kept.filter((token) => !reader.special.has(token)).length;
  return { read, written: ids.length, lost, folded };
}

/**
 * Of the words that have room: those that the tokenizer does not know, and those that are signs of
 * the model, neighbours as one; and the characters of the prompt that the others hold.
 */
function words(reader, prompt) {
  const found = { unknown: [], signs: [], heard: new Set() };
  let count = 0;
  const put = (list, word) => {
    const longer = list.at(-1) + word;
    if (list.length && prompt.includes(longer)) list[list.length - 1] = longer;
    else list.push(word);
  };
  for (const part of prompt.split(blank)) {
    const known = [];
    for (const word of reader.words(part)) {
      const sign = reader.special.has(word);
      const tokens = sign ? [word] : reader.tokenize(word).tokens;
      if (count >= reader.room) break;
      count += tokens.length;
      if (sign) put(found.signs, word);
      else if (tokens.some((token) => reader.special.has(token))) put(found.unknown, word);
      else known.push(word);
    }
    const plain = (c) => reader.words(c).join("");
    const emoji = (c) => /[\p{So}\p{Sk}]/u.test(c); // whose words are names, of other letters
    const bare = [...part].filter((c) => !emoji(c)).map(plain).join("");
    const holds = (word, c) => word.includes(plain(c)) && (emoji(c) || bare.includes(word));
    for (const c of new Set(part)) if (known.some((word) => holds(word, c))) found.heard.add(c);
  }
  return { ...found, unknown: [...new Set(found.unknown)], signs: [...new Set(found.signs)] };
}

/** The characters without which, or with others in whose place, the tokens stay the same. */
function trials(reader, prompt, told, heard) {
  const same = (text) => reader.tokenize(text).ids.join() === told;
  const found = { dropped: [], replaced: [], folded: [] };
  for (const c of new Set(prompt)) {
    if (/[ -~\ufe00-\ufe0f]/.test(c) || blank.test(c)) continue;
    if (/[\p{C}\p{Mn}\p{Sk}\ufffd]/u.test(c) && same(prompt.replaceAll(c, ""))) found.dropped.push(c);
    else if (/\p{C}/u.test(c) && same(prompt.replaceAll(c, " "))) {
      found.folded.push(`${point(c)} is read as a space`);
    }
    if (!heard.has(c)) continue;
    const bare = c.normalize("NFD").replace(/\p{Mn}/gu, "").normalize("NFC");
    for (const plain of new Set([bare, c.normalize("NFKC")])) {
      if (["", c, c.normalize("NFC")].includes(plain)) continue;
      if (!same(prompt.replaceAll(c, plain))) continue;
      const folds = c.normalize("NFKC") === plain.normalize("NFKC");
      if (folds) found.folded.push(`“${c}” is read as “${plain}”`);
      else found.replaced.push(`“${c}” as “${plain}”`);
    }
  }
  const capitals = [...heard].some((c) => small(c) !== c);
  if (capitals && same(small(prompt))) found.folded.push("capitals are read as small letters");
  return found;
}

function list(items) {
  const more = items.length - SHOWN;
  return items.slice(0, SHOWN).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
