"""Names of columns that say which rows may be shown, in the languages that we met: in lower case, words by spaces."""

import re


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for line in text.strip().splitlines() for name in line.split(","))


CONSENT = _names(  # a yes there allows
    """
    consent, consents, consented, consent given, consent obtained, consent signed, has consent
    has consented, gave consent, given consent, informed consent, written consent, verbal consent, patient consent
    patient consented, patient has consented, patient gave consent, patient consent given
    opt in, opts in, opted in, optin, may show, may be shown
    einwilligung, einwilligung erteilt, einwilligung liegt vor, einwilligung vorhanden, einwilligungserklärung
    patienteneinwilligung, eingewilligt, einverständnis, einverstaendnis, einverständniserklärung, einverstanden
    zustimmung, zustimmung erteilt, zugestimmt
    consentement, consentement donné, consentement du patient, consentement éclairé, consentement eclaire
    consentimiento, consentimiento informado, consentimento, consenso informato
    toestemming, toestemming gegeven, 同意
    """
)
REFUSAL = _names(  # a yes there forbids
    """
    no consent, not consented, consent refused, consent withdrawn, consent revoked, consent declined, consent denied
    refused consent, declined consent, withdrew consent, withdrawn consent, revoked consent
    opt out, opts out, opted out, optout, no demos, withheld
    do not share, do not show, do not use, do not publish, do not disclose, dont share, don t share
    refused, refusal, declined, withdrawn, withdrew, revoked, objected, dissent, private, confidential
    keine einwilligung, einwilligung verweigert, einwilligung widerrufen, einwilligung nicht erteilt
    kein einverständnis, kein einverstaendnis, nicht einverstanden, keine zustimmung
    widerspruch, widersprochen, widerruf, widerrufen, abgelehnt, ablehnung, verweigert, sperrvermerk, vertraulich
    refus, refusé, refus du patient, opposition, retrait, sans consentement
    sin consentimiento, rechazo, rechazado, senza consenso, rifiuto, rifiutato, geen toestemming, bezwaar, geweigerd
    不同意, 拒否, 同意なし, 同意撤回, オプトアウト
    """
)
SURELY = re.compile(  # about what may be shown, but a person has to say which way
    r"consent|consient|einwillig|einverst|zustimm|zugestimmt|stimmt zu|willigt ein|toestemming|consenso\b|samty[kc]ke"
    r"|\bopt(?:s|ed|ing)? ?(?:in|out)(?![a-z])|optout|(?<![a-z])noshare"
    r"|\b(?:do|does|must|may|can|should|shall)(?: ?not|nt|n t)|\b(?:must|may|can|should|shall) (?:we|be|i)\b"
    r"|\b(?:may|can) (?:sh[ao]\w+|used?|publish|train)|\bno demos?\b|withh[eo]ld|wider(?:spr[uoia]|ruf)"
    r"|sperrvermerk|同意|拒否|撤回|許可|オプトアウト|オプトイン|соглас|동의"
)
PERHAPS = re.compile(  # about that or about anything else; counts where somebody asked for privacy
    r"withdr[ae]w|revo[ck]|refus|declin|\bden(?:y|ied|ial)|reject|\bobject(?:s|ed|ions?|ing)\b|to object\b|oppos"
    r"|dissent|\bagree[ds]?\b|permi(?:t|ssion)|authori[sz]|autori[sz]|akkoord|\baccord\b|acce?pt|\ballow"
    r"|freigabe|freigegeben|weitergabe|erlaub"
    r"|\bdarf\b|sperr|ablehn|abgelehn|lehnt ab|verweiger|geweiger|bezwaar|rechaz|rifiut|retrait|retir[eé]"
    r"|zur(?:ü|ue)ckgezogen|\bshar|\bprivat|confiden|vertraulich|geheim|privileg|seal|embargo|restrict|exclu|assent|releas"
    r"|erasure|deletion|sensiti|sensib|\bhidden\b|secret|gdpr|dsgvo|datenschutz|publi[cs]|disclos|\bnever\b|\bnot\b|\bnicht"
    r"|privac|\bicf\b|zgoda|souhlas|suostumus|非公開|秘密|掲載"
)
LEGEND = re.compile(r" (?:yes no|y n|yn|ja nein|j n|oui non|o n|s[iíì] no)$")
DATE_WORDS = frozenset(["date", "dated", "datum", "day", "time", "timestamp", "at", "on", "am", "le", "fecha"])
DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?:[T ,].*)?")
