"""Words in the names of columns that say what a column is for, in the languages that we met. Pure."""

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


OUTPUT_NAMES = _set(
    "urgency severity diagnosis status code grade label labels answer output target category class "
    "intent team expected summary translation reply completion response topic sentiment result score "
    "rating gold reference queue priority decision verdict"
)
INPUT_NAMES = _set(
    "text message question input context document article passage prompt email mail body title "
    "subject note notes review sentence content comment query description ticket request history "
    "conversation"
)
# Of consent: searched in the words of a name, in lower case with spaces between.
CONSENT = re.compile(
    r"consent|einwillig|einverst|zustimm|toestemming|consenso|\b(?:agreed|permission|permitted)\b|\bmay ?show\b"
    r"|\bopt(?:s|ed)? ?in\b"
)
OPT_OUT = re.compile(
    r"\bopt(?:s|ed|ing)? ?outs?\b|\bopted\b(?! in\b)|\bno ?demos?\b|\bwithh[eo]ld\b|widerspr[uoa]ch\w*|widerruf\w*"
)
PERHAPS_OPT_OUT = re.compile(r"\b(?:confidential|sensitive|private|hidden|secret)\b")
REFUSAL = re.compile(
    r"withdr[ae]w|refus|revo[ck]|declin|den(?:y|ied)\b|reject|rescind|objecti|object(?:s|ed)\b|cancel|expired"
    r"|verweiger|ab(?:ge)?lehn|entzogen|zur(?:ü|ue)ckgezogen|zur(?:ü|ue)cknahme|erloschen|retir[eé]|rechaz|rifiut|geweiger"
)
NEGATION = re.compile(
    r"\b(?:no|not|non|none|never|without|missing|lack\w*|nicht|kein\w*|ohne|nie|fehl\w*|sans|sin|geen|senza)\b"
    r"|\b(?:no|non|not|un)(?:consent|permi)|\bdis(?:consent|agreed)"
)
GIVEN = re.compile(r"\b(?:given|granted|accepted|signed|obtained|received|gegeben|erteilt)\b")
YES_OR_NO = re.compile(r"\b(?:yes|y|ja|j|oui|si|sí) (?:or |oder |ou |o )?(?:no|n|nein|non)\b")
REMARK_NAMES = _set(
    "comment comments remark remarks notes annotation annotations bemerkung bemerkungen kommentar kommentare "
    "anmerkung anmerkungen notiz notizen hinweis hinweise commentaire commentaires remarque remarques comentario "
    "comentarios nota notas observación observaciones observação observações commento commenti osservazioni opmerking "
    "opmerkingen kommentarer 備考 コメント 备注"
)
REMARK_ADJECTIVES = _set("internal other further additional free general interne internes autres weitere sonstige")
IGNORED_NAMES = _set("id index idx uuid guid date time created updated timestamp url split nr no number row")
