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
CONSENT_WORD = re.compile(
    r"consent(?:s|ed|ement|imiento)?|consenso|toestemming|agreed|permission|permitted|may|show|opt(?:s|ed)?|in"
    r"|(?:patienten|datenschutz)?(?:einwilligung|einverst(?:ä|ae)ndnis|zustimmung)(?:s?erkl(?:ä|ae)rung)?"
    r"|eingewilligt|einverstanden|zugestimmt"
)
HARMLESS = _set(  # beside a word of consent: not what for, and not whether it holds
    "a an the of to for from by with is was be has have been on my i we your as column flag field status state form "
    "value answer reply text patient patients patientin patienten subject subjects user users customer customers "
    "person client clients kunde kunden data datum daten données date research study studie forschung training share "
    "shared sharing shown display use used usage publish publication publishing example examples beispiel beispiele "
    "demo demos gdpr dsgvo privacy datenschutz informed written signed given granted accepted obtained received "
    "gegeben erteilt liegt vor vorhanden der die das des dem den von zur zum für fuer ist zu mit du de la le les au "
    "aux et del al para il per het yes y ja oui si ok"
)
OPT_OUT = re.compile(
    r"\bopt(?:s|ed|ing)? ?outs?\b|\bopted\b(?! in\b)|\bno ?demos?\b|\bwithh[eo]ld\b|widerspr[uoa]ch\w*|widerruf\w*"
)
PERHAPS_OPT_OUT = re.compile(
    r"\b(?:confidential|sensitive|private|hidden|secret)\b|\bdo not (?:share|show|use|publish)\b"
    r"|^(?:s )?(?:refus(?:e|ed|al|als)?|refusé|oppos(?:ed?|ition)|objections?|object(?:s|ed)|declined?|withdrawn?"
    r"|dissent(?:s|ed)?|ablehnung|abgelehnt|verweigert|verweigerung)"
    r"(?: (?:du|de|des|of|the|by|von|patient|patiente|patients|user|client))*$"
)
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
