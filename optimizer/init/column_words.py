"""Words in the names of columns that say what a column is for, in the languages that we met. Pure."""


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
REMARK_NAMES = _set(
    "comment comments remark remarks notes annotation annotations bemerkung bemerkungen kommentar kommentare "
    "anmerkung anmerkungen notiz notizen hinweis hinweise commentaire commentaires remarque remarques comentario "
    "comentarios nota notas observación observaciones observação observações commento commenti osservazioni opmerking "
    "opmerkingen kommentarer 備考 コメント 备注"
)
REMARK_ADJECTIVES = _set("internal other further additional free general interne internes autres weitere sonstige")
IGNORED_NAMES = _set("id index idx uuid guid date time created updated timestamp url split nr no number row")
