"""Word lists for Wordle, our own: common English words of five letters."""

_SMALL = """
angel brave cable chair cloud crane dance drive eager earth fable flame flute giant grape green heart honey
house image irony jolly juice knife koala lemon light lunar magic maple mouse night noise ocean olive onion
party piano plant queen quiet radio river robin scale shine smoke stone storm sugar table tiger toast train
uncle urban valve voice water whale wheat world youth zebra
"""
SMALL = tuple(_SMALL.split())
"""64 words: games that small models learn in minutes."""

_LARGE = """
about above actor acute admit adopt adult after again agent agree ahead alarm album alert alike alive allow
alone along alter among angel anger angle angry apart apple apply arena argue arise array aside asset audio
audit avoid award aware badly baker basic basis beach began begin begun being below bench birth black blame
blind block blood board boost booth bound brain brand brave bread break breed brief bring broad broke brown
build built buyer cable carry catch cause chain chair chart chase cheap check chest chief child chose civil
claim class clean clear click clock close cloud coach coast could count court cover craft crane crash cream
crime cross crowd crown curve cycle daily dance dated dealt death debut delay depth doing doubt dozen draft
drama drawn dream dress drill drink drive drove dying eager early earth eight elite empty enemy enjoy enter
entry equal error event every exact exist extra fable faith false fault fiber field fifth fifty fight final
first fixed flame flash fleet floor fluid flute focus force forth forty forum found frame fraud fresh front
fruit fully funny giant given glass globe going grace grade grand grant grape grass great green gross group
grown guard guess guest guide happy harsh heart heavy hence honey horse hotel house human ideal image index
inner input irony issue joint jolly judge juice knife known koala label large laser later laugh layer learn
lease least leave legal lemon level light limit local logic loose lower lucky lunar lunch lying magic major
maker maple march match maybe mayor meant media metal might minor minus mixed model money month moral motor
mount mouse mouth movie music never newly night noise north noted novel nurse occur ocean offer often olive
onion order other ought paint panel paper party peace phase phone photo piano piece pilot pitch place plain
plane plant plate point pound power press price pride prime print prior prize proof proud prove queen quick
quiet quite radio raise range rapid ratio reach ready refer right rival river robin rough round route royal
rural scale scene scope score sense serve seven shall shape share sharp sheet shelf shell shift shine shirt
shock shoot short shown sight since sixth sixty sized skill sleep slide small smart smile smoke solid solve
sorry sound south space spare speak speed spend spent split spoke sport staff stage stake stand start state
steam steel stick still stock stone stood store storm story strip stuck study stuff style sugar suite super
sweet table taken taste teach teeth thank theft their theme there these thick thing think third those three
threw throw tiger tight tired title toast today topic total touch tough tower track trade train treat trend
trial tried truck truly trust truth twice uncle under undue union unity until upper upset urban usage usual
valid value valve video virus visit vital voice waste watch water whale wheat wheel where which while white
whole whose woman women world worry worse worst worth would wound write wrong wrote yield young youth zebra
"""
LARGE = tuple(_LARGE.split())
"""504 words, the small list's among them; the best play has a mean return of -1.944."""
