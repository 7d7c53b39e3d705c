package redact

// The lists below are frequent names of several countries, collected by hand
// for this package. They need not be long: what they miss, an honorific, a
// greeting or the name of the JSON member often gives away.

const givenNames = `james john robert michael william david richard joseph thomas charles christopher daniel matthew anthony
donald steven paul andrew joshua kenneth kevin brian george edward ronald timothy jason jeffrey ryan jacob gary nicholas eric
jonathan stephen larry justin scott brandon benjamin samuel gregory alexander patrick raymond jack dennis jerry tyler aaron jose
adam nathan henry zachary douglas peter kyle noah ethan jeremy walter christian keith roger terry austin sean gerald carl harold
dylan arthur lawrence jordan jesse bryan billy bruce gabriel joe logan alan juan albert willie elijah randy mason vincent liam
roy bobby caleb bradley russell lucas philip johnny eugene howard leonard marcus dale francis martin craig stanley derek allen
mary patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa nancy betty sandra margaret ashley kimberly emily
donna michelle carol amanda melissa deborah stephanie dorothy rebecca sharon laura cynthia amy kathleen angela shirley brenda
emma anna pamela nicole samantha katherine christine helen debra rachel carolyn janet maria catherine heather diane olivia julie
joyce victoria ruth virginia lauren kelly christina joan evelyn judith andrea hannah megan cheryl jacqueline martha madison teresa
gloria sara janice ann kathryn abigail sophia frances jean alice judy isabella julia denise amber beverly danielle theresa
marilyn brittany diana natalie kayla lori alexis tiffany tammy tamara melinda claire edith shannon kim wendy sheila katie peggy
ellen rosemary annie sally lillian erin kristen holly jill tracy monica veronica connie lucy audrey bonnie courtney geraldine
felicia jeanne leslie molly vanessa gail caroline suzanne beth valerie rhonda tina lorraine carrie emmanuel yvonne cindy allison
oscar luis carlos miguel jorge pedro manuel antonio francisco javier fernando rafael ricardo eduardo roberto mario sergio diego
alejandro pablo andres ramon enrique hector raul victor ivan hugo mateo sofia camila valentina lucia elena carmen rosa ana isabel
luisa marta pilar teresa beatriz raquel silvia cristina ines catarina joao paulo tiago goncalo rui nuno duarte
hans klaus jurgen jürgen wolfgang dieter heinz werner günter gunter fritz otto karl heinrich friedrich stefan andreas matthias
sebastian florian tobias markus thorsten torsten uwe bernd ralf jens lars sven anke birgit brigitte claudia gabriele heike ingrid
katrin kerstin monika petra renate sabine silke susanne ulrike ursula anja britta lena lea leonie luca finn jonas felix maximilian
pierre jacques michel philippe alain bernard françois francois nicolas laurent olivier thierry christophe frederic frédéric
sophie nathalie isabelle sylvie valérie valerie sandrine céline celine aurélie aurelie camille chloé chloe manon léa inès hélène helene
giovanni giuseppe marco paolo luigi francesco alessandro lorenzo matteo stefano giulia chiara francesca federica silvia paola
jan piet kees willem hendrik johannes cornelis dirk maarten joost sander bram daan lotte sanne fleur femke anouk marieke anneke
ole niels mads rasmus kasper frederik mikkel soren søren jesper henrik anders bjorn björn erik gunnar magnus nils olof oskar per
astrid freja ingrid karin kirsten lise maja signe sigrid solveig tove ulla hanne inger mette pernille
pekka jukka matti timo antti mikko juha kari heikki aino eeva kaisa liisa päivi
ivan dmitri dmitry sergei sergey alexei aleksei nikolai mikhail vladimir andrei igor oleg boris pavel yuri viktor anatoly
anastasia ekaterina irina natalia olga svetlana tatiana yelena galina ludmila oksana
piotr pawel paweł tomasz krzysztof andrzej marcin michal michał jakub katarzyna agnieszka małgorzata malgorzata
jiri jiří petr milan zdenek zdeněk vaclav václav frantisek františek ondrej ondřej tereza lenka zuzana jitka
laszlo lászló zoltan zoltán gabor gábor ferenc istvan istván attila balazs balázs katalin ildiko ildikó erzsebet
mohammed muhammad mohamed ahmed ali omar hassan hussein ibrahim khalid youssef mustafa abdullah fatima aisha maryam zainab layla
mehmet hasan huseyin hüseyin ayse ayşe fatma zeynep emre murat osman
raj rajesh rahul amit anil sanjay vijay ravi suresh ramesh deepak ashok priya anita sunita pooja neha divya kavita lakshmi arjun
wei ming hiroshi takashi kenji yuki akira satoshi haruto yui sakura keiko yoko naoko
minh nguyen linh kwame kofi ama chinedu oluwaseun ngozi amara thabo sipho
conor declan niamh siobhan siobhán aoife ciara eoin padraig fiona graham nigel trevor gareth rhys dylan hamish
evan ewan oona jaylee kylie jenna jade chelsea destiny jasmine brooke paige morgan mia ava ella zoe zoë isla freya alfie
archie theo leo max oliver harry charlie freddie noel owen elliot marion lloyd clarence ernest melvin herbert leon alfred norman
edwin glenn leroy clifford theodore gilbert milton mildred thelma ethel gertrude hazel doris irene marjorie eleanor
josephine norma lois phyllis gladys arlene maxine roberta wilma bernice beatrice erika alicia maureen joanne annette jeanette
colleen carla vicki marlene darlene priscilla bethany miranda angelica gabriella kristin kristina kirsty katrina kristine
marianne roxanne rosalie yolanda bianca daniela eva nora vera ida greta hilda agnes elsa martina simona michaela nadia sasha
stacy stacey tracey kathy debbie cathy becky nathaniel cameron dominic xavier isaac levi micah joel seth elias ezra
sheryl reginald kendra cassandra alison leah marissa autumn sierra latoya keisha tanisha malik jamal darnell tyrone deshawn
lance clayton clinton wesley dwayne duane darrell darryl marvin maurice franklin cecil percy rodney stuart stewart
gavin ian neil ross colin malcolm duncan angus callum fergus rory`

const doubtfulNames = `will mark grant art bill rich jordan paris chase rose hope grace faith joy april may june august dawn
summer autumn sierra dakota savannah virginia georgia carolina florence charlotte chelsea sydney brooklyn london austin dallas
jackson lincoln madison logan mason hunter carter parker tyler cooper taylor tanner porter page paige miles dean duke earl
frank gene guy jay lee pat ray rob roman victor viktor ivy lily daisy violet iris olive pearl ruby amber crystal jade crimson
penny star sky skye rain river brook brooke robin jay martin max drew cash chance christian clay cliff colt dale dell dick don
glen harry heath jack jean jersey jimmy josh kay ken kit lane major marina mercy norm patience piper prince reed rick rod rusty
sage sandy scout sterling stone sue sonny ted tom tony vic wade ward warren woody ali ada eve kim ana amy dan ben sam jim bob joe
mike dave steve chris matt nick alex tim jeff greg lisa carol melody harmony destiny angel trinity nova luna kali jenkins alexa siri
claude gemini oscar pascal julia ruby perl rosa cassandra hermes apollo atlas ali min ming wei per ole kari lea emerald echo delta
francis kelly morgan casey jamie jesse leslie shannon tracy stacy terry jerry lance lane scott craig max israel chad
kevin karen kyle felix ira otto luca gloria monica victoria regina alma carmen diana celeste nora eden elena mario`

const surnames = `smith johnson williams brown jones garcia miller davis rodriguez martinez hernandez lopez gonzalez wilson
anderson thomas taylor moore jackson martin lee perez thompson white harris sanchez clark ramirez lewis robinson walker young
allen king wright scott torres nguyen hill flores green adams nelson baker hall rivera campbell mitchell carter roberts gomez
phillips evans turner diaz parker cruz edwards collins reyes stewart morris morales murphy cook rogers gutierrez ortiz morgan
cooper peterson bailey reed kelly howard ramos kim cox ward richardson watson brooks chavez wood james bennett gray mendoza
ruiz hughes price alvarez castillo sanders patel myers long ross foster jimenez powell jenkins perry russell sullivan bell coleman
butler henderson barnes gonzales fisher vasquez simmons romero jordan patterson alexander hamilton graham reynolds griffin
wallace moreno west cole hayes bryant herrera gibson ellis tran medina aguilar stevens murray ford castro marshall owens harrison
fernandez mcdonald woods washington kennedy wells vargas henry chen freeman webb tucker guzman burns crawford olson simpson porter
hunter gordon mendez silva shaw snyder mason dixon munoz hunt hicks holmes palmer wagner black robertson boyd stone salazar fox
warren mills meyer rice schmidt garza daniels ferguson nichols stephens soto weaver ryan gardner payne grant dunn kelley spencer
hawkins arnold pierce hansen peters santos hart bradley knight elliott cunningham duncan armstrong hudson carroll lane riley
andrews alvarado ray delgado berry perkins hoffman johnston matthews pena richards contreras willis carpenter lawrence sandoval
müller mueller schneider fischer weber becker schulz koch bauer richter klein wolf schröder neumann schwarz zimmermann
rossi russo ferrari esposito bianchi romano colombo dubois durand leroy moreau lefebvre fournier girard bonnet lambert
jansen visser bakker dekker mulder andersson johansson karlsson nilsson eriksson larsson olsson persson svensson gustafsson
jensen nielsen pedersen christensen larsen sorensen rasmussen virtanen korhonen ivanov petrov smirnov kowalski novak horvat nagy
kovacs papadopoulos silva santos oliveira souza khan ahmed singh kumar sharma gupta wang li zhang liu yang huang zhao wu zhou
tanaka suzuki sato watanabe takahashi park choi jung kang cho`
