"""What the model can draw: a table of things and a table of background colours.

Each row of THINGS is an emoji, by its English name in the PyPI package `emoji`,
and the names people may use for it in a prompt. The rows are ordered by how
likely someone is to ask for them; training takes the first `count` rows, so the
vocabulary of the model is one number.
"""

import emoji

# (emoji name, names in captions; the first is the one the judge reports)
THINGS = [
    ("red_apple", "apple, red apple"),
    ("cat_face", "cat, kitten, cat face"),
    ("dog_face", "dog, puppy, dog face"),
    ("red_heart", "heart, red heart"),
    ("automobile", "car, red car, automobile"),
    ("rocket", "rocket, space rocket"),
    ("house", "house, home"),
    ("deciduous_tree", "tree, green tree"),
    ("star", "star, yellow star"),
    ("sun_with_face", "sun, yellow sun"),
    ("crescent_moon", "moon, crescent moon"),
    ("sunflower", "sunflower, yellow flower"),
    ("rose", "rose, red rose"),
    ("grinning_face", "smiley, smiling face, happy face"),
    ("banana", "banana"),
    ("strawberry", "strawberry"),
    ("pizza", "pizza, slice of pizza"),
    ("hamburger", "hamburger, burger"),
    ("birthday_cake", "cake, birthday cake"),
    ("doughnut", "donut, doughnut"),
    ("soft_ice_cream", "ice cream, ice cream cone"),
    ("fish", "fish, blue fish"),
    ("bird", "bird, blue bird"),
    ("butterfly", "butterfly"),
    ("horse_face", "horse, horse face"),
    ("cow_face", "cow, cow face"),
    ("pig_face", "pig, pink pig, pig face"),
    ("rabbit_face", "rabbit, bunny, rabbit face"),
    ("mouse_face", "mouse, mouse face"),
    ("bear", "bear, brown bear"),
    ("panda", "panda, panda bear"),
    ("fox", "fox"),
    ("lion", "lion"),
    ("tiger_face", "tiger, tiger face"),
    ("monkey_face", "monkey, monkey face"),
    ("frog", "frog, green frog"),
    ("elephant", "elephant"),
    ("penguin", "penguin"),
    ("owl", "owl"),
    ("front-facing_baby_chick", "chick, baby chick"),
    ("turtle", "turtle, tortoise"),
    ("snake", "snake, green snake"),
    ("spouting_whale", "whale, blue whale"),
    ("octopus", "octopus"),
    ("crab", "crab, red crab"),
    ("honeybee", "bee, honeybee"),
    ("unicorn", "unicorn"),
    ("bicycle", "bicycle, bike"),
    ("bus", "bus"),
    ("locomotive", "train, steam train, locomotive"),
    ("airplane", "airplane, plane"),
    ("sailboat", "sailboat, boat, sailing boat"),
    ("lemon", "lemon, yellow lemon"),
    ("grapes", "grapes, purple grapes"),
    ("cherries", "cherries, red cherries"),
    ("watermelon", "watermelon, slice of watermelon"),
    ("pineapple", "pineapple"),
    ("carrot", "carrot"),
    ("tomato", "tomato, red tomato"),
    ("mushroom", "mushroom, red mushroom, toadstool"),
    ("cactus", "cactus, green cactus"),
    ("palm_tree", "palm tree, palm"),
    ("Christmas_tree", "christmas tree"),
    ("snowman_without_snow", "snowman"),
    ("jack-o-lantern", "pumpkin, jack-o-lantern"),
    ("ghost", "ghost, white ghost"),
    ("robot", "robot, robot face"),
    ("alien", "alien, alien face"),
    ("skull", "skull"),
    ("smiling_face_with_sunglasses", "cool face, face with sunglasses"),
    ("crying_face", "crying face, sad face"),
    ("fire", "fire, flame"),
    ("rainbow", "rainbow"),
    ("balloon", "balloon, red balloon"),
    ("wrapped_gift", "gift, present, gift box"),
    ("soccer_ball", "football, soccer ball"),
    ("basketball", "basketball"),
    ("guitar", "guitar, red guitar"),
    ("crown", "crown, gold crown"),
    ("key", "key, gold key"),
    # From here on: for larger models.
    ("bell", "bell, gold bell"),
    ("alarm_clock", "clock, alarm clock"),
    ("light_bulb", "light bulb, lamp"),
    ("gem_stone", "diamond, gem, blue diamond"),
    ("umbrella_with_rain_drops", "umbrella"),
    ("globe_showing_Europe-Africa", "earth, globe, planet earth"),
    ("top_hat", "hat, top hat, black hat"),
    ("green_apple", "green apple"),
    ("tangerine", "tangerine, orange fruit"),
    ("pear", "pear, green pear"),
    ("peach", "peach"),
    ("avocado", "avocado"),
    ("cookie", "cookie"),
    ("hot_dog", "hot dog"),
    ("french_fries", "french fries, fries"),
    ("cheese_wedge", "cheese"),
    ("tulip", "tulip, pink tulip"),
    ("cherry_blossom", "cherry blossom, pink flower"),
    ("lady_beetle", "ladybug, ladybird"),
    ("snail", "snail"),
    ("dolphin", "dolphin"),
    ("T-Rex", "dinosaur, t-rex"),
    ("helicopter", "helicopter"),
    ("tractor", "tractor"),
    ("fire_engine", "fire truck, fire engine"),
    ("trophy", "trophy, gold trophy"),
]

# Names that take no article: "grapes on green", not "a grapes on green".
PLURAL = {"grapes", "purple grapes", "cherries", "red cherries", "french fries", "fries", "cheese", "fire"}

# Slightly muted, so that a red apple still shows on the red background.
BACKGROUNDS = {
    "red": (200, 30, 36),
    "orange": (243, 132, 32),
    "yellow": (250, 218, 60),
    "green": (44, 146, 68),
    "blue": (38, 92, 200),
    "purple": (122, 56, 168),
    "pink": (246, 154, 190),
    "brown": (112, 70, 40),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (132, 132, 132),
}

# Other spellings a prompt may use for a background colour.
COLOUR_SYNONYMS = {"gray": ["gray", "grey"], "purple": ["purple", "violet"]}

DEFAULT_COUNT = 80


class Thing:
    """One row of the table: the emoji character and its names."""

    def __init__(self, emoji_name, names):
        self.char = emoji.emojize(f":{emoji_name}:")
        if self.char.startswith(":"):
            raise ValueError(f"package emoji does not know {emoji_name!r}")
        self.names = [name.strip() for name in names.split(",")]
        self.name = self.names[0]


def load_things(count=DEFAULT_COUNT):
    """The first `count` things of the table."""
    return [Thing(*row) for row in THINGS[:count]]


def article(name):
    """'a ', 'an ' or nothing, as the name needs it."""
    if name in PLURAL:
        return ""
    if name.startswith("unicorn"):
        return "a "
    return "an " if name[0] in "aeiou" else "a "
