"""Names with which a function only reads or computes. Everything that is not listed here counts as a change.

The lists assume a closed world: every value of a source comes from a name listed here, from JSON arguments, or from
the source itself. A method name is listed if it changes nothing on any of those values.
"""


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


BUILTINS = words(
    """
    ArithmeticError AssertionError AttributeError BaseException BaseExceptionGroup EOFError Ellipsis Exception
    ExceptionGroup FileNotFoundError FloatingPointError ImportError IndexError KeyError LookupError NameError
    NotImplemented NotImplementedError OSError OverflowError PermissionError RecursionError RuntimeError StopIteration
    SyntaxError TimeoutError TypeError UnicodeDecodeError UnicodeEncodeError UnicodeError UserWarning ValueError Warning
    ZeroDivisionError DeprecationWarning RuntimeWarning ConnectionError StopAsyncIteration
    abs all any ascii bin bool bytearray bytes callable chr classmethod complex dict divmod enumerate filter float
    format frozenset getattr hasattr hash hex id int isinstance issubclass iter len list map max min next object oct
    ord pow print property range repr reversed round set slice sorted staticmethod str sum super tuple type zip
    __name__ __debug__
    """
)

# Modules whose listed names only compute or read. A package of listed modules needs no entry of its own.
MODULES: dict[str, frozenset[str]] = {
    "__future__": words("annotations"),
    "abc": words("ABC ABCMeta abstractmethod"),
    "array": words("array"),
    "ast": words(
        """
        parse walk literal_eval dump unparse iter_child_nodes AST Add And BinOp BoolOp Call Compare Constant Div Eq
        Expression Expr FloorDiv Gt GtE Lt LtE Mod Mult Name Not NotEq Or Pow Sub UAdd USub UnaryOp Load List Tuple
        """
    ),
    "asyncio": words("sleep gather wait_for timeout"),
    "base64": words(
        """
        b64encode b64decode urlsafe_b64encode urlsafe_b64decode standard_b64encode standard_b64decode b32encode
        b32decode b16encode b16decode b85encode b85decode a85encode a85decode
        """
    ),
    "binascii": words("hexlify unhexlify crc32 b2a_hex a2b_hex b2a_base64 a2b_base64 Error"),
    "bisect": words("bisect bisect_left bisect_right insort insort_left insort_right"),
    "calendar": words(
        """
        monthrange isleap leapdays weekday month calendar monthcalendar month_name month_abbr day_name day_abbr timegm
        TextCalendar HTMLCalendar Calendar MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY SUNDAY
        """
    ),
    "cmath": words(
        """
        sqrt exp log log10 sin cos tan asin acos atan sinh cosh tanh phase polar rect isclose pi e inf nan
        """
    ),
    "collections": words("Counter OrderedDict defaultdict deque namedtuple ChainMap"),
    "collections.abc": words(
        """
        Callable Collection Container Generator Hashable Iterable Iterator Mapping MutableMapping MutableSequence
        MutableSet Sequence Set Sized Awaitable Coroutine AsyncIterator AsyncIterable AsyncGenerator
        """
    ),
    "colorsys": words("rgb_to_hsv hsv_to_rgb rgb_to_hls hls_to_rgb rgb_to_yiq yiq_to_rgb"),
    "contextlib": words("suppress nullcontext contextmanager asynccontextmanager"),
    "copy": words("copy deepcopy"),
    "csv": words("reader DictReader writer DictWriter QUOTE_ALL QUOTE_MINIMAL QUOTE_NONNUMERIC QUOTE_NONE"),
    "dataclasses": words("dataclass field fields asdict astuple replace is_dataclass KW_ONLY FrozenInstanceError"),
    "datetime": words("date datetime time timedelta timezone tzinfo UTC MINYEAR MAXYEAR"),
    "decimal": words(
        """
        Decimal InvalidOperation DivisionByZero localcontext ROUND_UP ROUND_DOWN ROUND_CEILING ROUND_FLOOR
        ROUND_HALF_UP ROUND_HALF_DOWN ROUND_HALF_EVEN ROUND_05UP
        """
    ),
    "difflib": words("SequenceMatcher get_close_matches unified_diff ndiff context_diff"),
    "enum": words("Enum IntEnum StrEnum Flag IntFlag auto unique"),
    "fractions": words("Fraction"),
    "functools": words("partial reduce wraps cmp_to_key total_ordering"),
    "graphlib": words("TopologicalSorter CycleError"),
    "hashlib": words("md5 sha1 sha224 sha256 sha384 sha512 blake2b blake2s sha3_256 sha3_512 pbkdf2_hmac"),
    "heapq": words("heappush heappop heapify heapreplace heappushpop nlargest nsmallest merge"),
    "hmac": words("new digest compare_digest"),
    "html": words("escape unescape"),
    "io": words("StringIO BytesIO"),
    "ipaddress": words(
        """
        ip_address ip_network ip_interface IPv4Address IPv6Address IPv4Network IPv6Network summarize_address_range
        collapse_addresses AddressValueError NetmaskValueError
        """
    ),
    "itertools": words(
        """
        accumulate batched chain combinations combinations_with_replacement compress count cycle dropwhile filterfalse
        groupby islice pairwise permutations product repeat starmap takewhile zip_longest
        """
    ),
    "json": words("dumps loads JSONDecodeError JSONEncoder"),
    "keyword": words("iskeyword kwlist"),
    "math": words(
        """
        acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp exp2 expm1
        fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp lgamma
        log log10 log1p log2 modf nan nextafter perm pi pow prod radians remainder sin sinh sqrt sumprod tan tanh tau
        trunc ulp
        """
    ),
    "matplotlib.pyplot": words(
        """
        annotate axhline axis axvline bar barh boxplot clf close colorbar errorbar figure figtext fill fill_between gca
        gcf grid hist imshow legend loglog pie plot savefig scatter semilogx semilogy show stem step subplot subplots
        suptitle text tick_params tight_layout title xlabel xlim xscale xticks ylabel ylim yscale yticks
        """
    ),
    "numbers": words("Number Real Integral Rational Complex"),
    "numpy": words(
        """
        abs absolute add all allclose amax amin any append arange arccos arcsin arctan arctan2 argmax argmin argsort
        array array_equal asarray astype atleast_1d atleast_2d average bincount bool_ broadcast_to ceil clip
        column_stack
        concatenate convolve corrcoef cos cosh count_nonzero cov cross cumprod cumsum deg2rad degrees diag diff digitize
        divide dot einsum empty equal exp expand_dims eye flip float32 float64 floor full full_like geomspace gradient
        histogram hstack hypot identity inf inner int32 int64 integer interp isclose isfinite isin isinf isnan kron
        linspace log log10 log1p log2 logical_and logical_not logical_or logspace matmul max maximum mean
        median meshgrid
        min minimum mod multiply nan nan_to_num nanmax nanmean nanmedian nanmin nanstd nansum ndarray newaxis nonzero
        number ones ones_like outer percentile pi poly1d polyfit polyval power prod ptp quantile rad2deg radians ravel
        repeat reshape roll roots rot90 round searchsorted sign sin sinh sort split sqrt square squeeze stack std
        subtract sum swapaxes tan tanh tensordot tile trace transpose trapezoid tril triu unique var vectorize vstack
        where zeros zeros_like
        """
    ),
    "numpy.fft": words("fft ifft rfft irfft fftfreq rfftfreq"),
    "numpy.linalg": words(
        """
        LinAlgError cholesky cond det eig eigh eigvals inv lstsq matrix_rank norm pinv qr solve svd
        """
    ),
    "numpy.random": words("Generator choice default_rng normal permutation rand randint randn random uniform"),
    "operator": words(
        """
        abs add and_ contains countOf eq floordiv ge getitem gt index indexOf inv invert itemgetter le lshift lt matmul
        mod mul ne neg not_ or_ pos pow rshift sub truediv truth xor
        """
    ),
    "os": words("environ getenv sep linesep"),
    "os.path": words(
        """
        basename commonpath commonprefix dirname exists getsize isabs isdir isfile join normpath split
        splitext
        """
    ),
    "pandas": words(
        """
        Categorical DataFrame DateOffset Grouper Index Interval MultiIndex NA NaT Period Series Timedelta Timestamp
        bdate_range concat crosstab cut date_range get_dummies isna isnull melt merge notna notnull period_range pivot
        pivot_table qcut to_datetime to_numeric to_timedelta unique
        """
    ),
    "pprint": words("pformat"),
    "pydantic": words(
        """
        AfterValidator AnyHttpUrl AnyUrl AwareDatetime BaseModel BeforeValidator ConfigDict EmailStr Field FiniteFloat
        FutureDate HttpUrl Json NaiveDatetime NegativeFloat NegativeInt NonNegativeFloat NonNegativeInt NonPositiveInt
        PastDate PositiveFloat PositiveInt SecretStr StrictBool StrictFloat StrictInt StrictStr StringConstraints UUID4
        ValidationError computed_field confloat conint conlist constr field_serializer field_validator model_validator
        """
    ),
    "random": words(
        """
        Random betavariate choice choices expovariate gauss getrandbits lognormvariate normalvariate randint random
        randrange sample shuffle triangular uniform
        """
    ),
    "re": words(
        """
        A ASCII DOTALL I IGNORECASE M MULTILINE Match Pattern S U UNICODE VERBOSE X compile error escape
        findall finditer
        fullmatch match search split sub subn
        """
    ),
    "reprlib": words("repr"),
    "secrets": words("choice compare_digest randbelow randbits token_bytes token_hex token_urlsafe"),
    "shlex": words("join quote split"),
    "statistics": words(
        """
        NormalDist StatisticsError correlation covariance fmean geometric_mean harmonic_mean linear_regression mean
        median median_grouped median_high median_low mode multimode pstdev pvariance quantiles stdev variance
        """
    ),
    "string": words(
        """
        Template ascii_letters ascii_lowercase ascii_uppercase capwords digits hexdigits octdigits printable punctuation
        whitespace
        """
    ),
    "struct": words("calcsize pack unpack unpack_from error"),
    "sys": words("byteorder float_info getsizeof maxsize platform version version_info"),
    "textwrap": words("TextWrapper dedent fill indent shorten wrap"),
    "time": words(
        "asctime ctime gmtime localtime mktime monotonic perf_counter process_time sleep strftime strptime time time_ns"
    ),
    "traceback": words("format_exc"),
    "types": words("MappingProxyType SimpleNamespace NoneType"),
    "unicodedata": words(
        """
        bidirectional category combining name normalize numeric decimal digit lookup east_asian_width
        """
    ),
    "urllib.parse": words(
        """
        ParseResult SplitResult parse_qs parse_qsl quote quote_plus unquote unquote_plus urldefrag urlencode urljoin
        urlparse urlsplit urlunparse urlunsplit
        """
    ),
    "uuid": words("NAMESPACE_DNS NAMESPACE_OID NAMESPACE_URL UUID uuid3 uuid4 uuid5"),
    "warnings": words("warn"),
    "zlib": words("adler32 compress crc32 decompress error"),
    "zoneinfo": words("ZoneInfo ZoneInfoNotFoundError available_timezones"),
}
ENVIRONMENT = ".".join(("os", "environ"))
_TYPING = words(
    """
    AbstractSet Annotated Any AnyStr AsyncGenerator AsyncIterable AsyncIterator Awaitable Callable ClassVar Collection
    Container Coroutine DefaultDict Deque Dict Final FrozenSet Generator Generic Hashable Iterable Iterator List Literal
    LiteralString Mapping MutableMapping MutableSequence MutableSet NamedTuple Never NewType NoReturn NotRequired
    Optional OrderedDict Protocol Required Self Sequence Set SupportsFloat SupportsInt Text Tuple Type TypeAlias
    TypeGuard TypeVar TypedDict Union Unpack assert_never cast final overload override runtime_checkable Counter
    TYPE_CHECKING
    """
)
MODULES["typing"] = MODULES["typing_extensions"] = _TYPING
# Libraries whose objects have many attributes: beside them, attributes of a source's own classes are not certain.
WIDE = words("matplotlib numpy pandas")

# Attributes that are certain without these libraries alone: their `query` evaluates a text.
NOT_WIDE = words("query")
# Names that are certain only in a direct call, with its arguments in view.
DIRECT = words("builtins.type builtins.getattr builtins.hasattr builtins.super matplotlib.pyplot.savefig")
# Functions that change their first argument.
CHANGING = words(
    """
    bisect.insort bisect.insort_left bisect.insort_right heapq.heapify heapq.heappop heapq.heappush heapq.heappushpop
    heapq.heapreplace random.shuffle
    """
)
# What keeps a state that reading it changes: never kept in a module, a class or a default.
STATEFUL = words(
    """
    builtins.enumerate builtins.filter builtins.iter builtins.map builtins.next builtins.reversed builtins.zip
    builtins.super builtins.getattr builtins.object asyncio.gather asyncio.sleep asyncio.timeout asyncio.wait_for
    ast.iter_child_nodes ast.walk collections.defaultdict contextlib.nullcontext contextlib.suppress csv.DictReader
    csv.DictWriter csv.reader csv.writer decimal.localcontext difflib.SequenceMatcher difflib.context_diff difflib.ndiff
    difflib.unified_diff functools.reduce graphlib.TopologicalSorter hmac.new io.BytesIO io.StringIO heapq.merge
    random.Random re.finditer copy.copy copy.deepcopy ipaddress.summarize_address_range ipaddress.collapse_addresses
    """
)
STATEFUL_MODULES = words("itertools matplotlib numpy pandas")
# What uses up an iterator at once, so that none is kept.
CONSUMING = words(
    """
    builtins.all builtins.any builtins.dict builtins.frozenset builtins.list builtins.max builtins.min builtins.set
    builtins.sorted builtins.sum builtins.tuple collections.Counter collections.OrderedDict collections.deque
    """
)
CONSUMED = words("builtins.enumerate builtins.reversed builtins.zip")

DECORATORS = words(
    """
    abc.abstractmethod builtins.classmethod builtins.property builtins.staticmethod contextlib.asynccontextmanager
    contextlib.contextmanager dataclasses.dataclass enum.unique functools.total_ordering functools.wraps
    pydantic.computed_field pydantic.field_serializer pydantic.field_validator pydantic.model_validator
    typing.final typing.overload typing.override typing.runtime_checkable
    """
)
BASES = words(
    """
    abc.ABC builtins.dict builtins.float builtins.int builtins.list builtins.object builtins.str builtins.tuple
    enum.Enum enum.Flag enum.IntEnum enum.IntFlag enum.StrEnum json.JSONEncoder pydantic.BaseModel typing.Generic
    typing.NamedTuple typing.Protocol typing.TypedDict
    """
)
CLASS_KEYWORDS = words("total frozen extra strict")
OPERATORS = words(
    """
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __floordiv__ __mod__ __pow__ __matmul__
    __and__ __or__ __xor__ __neg__ __pos__ __invert__ __abs__ __round__ __getitem__ __iter__ __next__ __lshift__
    """
)
SPECIAL = OPERATORS | words(
    """
    __all__ __author__ __version__ __doc__ __slots__ __init__ __post_init__ __str__ __repr__ __eq__ __ne__ __lt__ __le__
    __gt__ __ge__ __hash__ __len__ __contains__ __call__ __bool__ __int__ __float__ __enter__ __exit__ __aenter__
    __aexit__ __format__ __missing__ __index__
    """
)
# Names that the source's own classes cannot make certain: on other values they lead to frames, files or `eval`.
DENIED = words(
    """
    format format_map model_rebuild parse_raw parse_file update_forward_refs from_file clear_cache obj
    """
)
DENIED_PREFIXES = ("gi_", "cr_", "ag_", "tb_", "f_", "co_")

# Attributes and methods that change nothing, on whatever value of the closed world they are read.
READING = words(
    """
    capitalize casefold center count decode encode endswith expandtabs find index isalnum isalpha isascii isdecimal
    isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans
    partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith
    strip swapcase title translate upper zfill hex fromhex from_bytes to_bytes bit_length bit_count is_integer
    as_integer_ratio conjugate real imag numerator denominator fromkeys get items keys values copy union intersection
    difference symmetric_difference issubset issuperset isdisjoint elements most_common total maxlen new_child maps

    today now utcnow fromisoformat fromtimestamp utcfromtimestamp combine strptime strftime isoformat isocalendar
    isoweekday weekday timestamp date time timetz timetuple utctimetuple astimezone toordinal fromordinal ctime year
    month day hour minute second microsecond tzinfo fold utcoffset tzname dst days seconds microseconds total_seconds
    utc key tm_year tm_mon tm_mday tm_hour tm_min tm_sec tm_wday tm_yday formatmonth formatyear itermonthdates
    monthdatescalendar

    quantize sqrt exp ln log10 to_integral_value normalize as_tuple is_nan is_finite is_infinite is_signed is_zero
    is_normal adjusted copy_abs compare limit_denominator from_float from_decimal
    match fullmatch search findall finditer sub subn group groups groupdict start end span expand lastindex lastgroup
    pattern flags string substitute safe_substitute hexdigest digest digest_size block_size

    args message msg lineno colno offset pos doc errors error_count reason value name names code errno strerror filename
    left right op ops operand operands body func elts comparators n id keywords
    scheme netloc path params query fragment hostname port username password geturl
    is_private is_global is_loopback is_multicast is_reserved is_link_local hosts network_address broadcast_address
    num_addresses prefixlen netmask hostmask with_prefixlen subnets supernet overlaps subnet_of supernet_of version
    ratio quick_ratio get_matching_blocks get_opcodes fieldnames line_num getvalue urn int bytes fields
    model_dump model_dump_json model_validate model_validate_json model_copy model_fields model_json_schema
    pdf cdf inv_cdf mean stdev variance median mode zscore slope intercept major minor micro default static_order
    randint random uniform choice choices sample gauss integers normal permutation standard_normal

    T abs add_suffix add_prefix all any argmax argmin argsort asfreq assign astype at autocorr axes bfill between cat
    clip columns combine_first corr cov cummax cummin cumprod cumsum dayofweek dayofyear describe diag diff diagonal
    div dot drop drop_duplicates dropna dt dtype dtypes duplicated empty eq explode expanding ffill fillna filter
    first flatten from_dict from_records ge get_group groupby gt head iat idxmax idxmin iloc infer_objects
    interpolate isin isna isnull item itertuples iterrows itemsize last le loc lt max melt memory_usage min mod mul
    multiply nbytes ndim ne nlargest notna notnull nsmallest nth nunique pct_change pivot pivot_table
    pow prod product quantile quarter rank ravel reindex rename repeat reset_index resample reshape rolling round
    sem set_index shape shift size skew sort_index sort_values squeeze stack std str sum swapaxes tail take
    to_dict to_list to_numpy to_period to_timestamp to_pydatetime tolist trace transpose tz_convert tz_localize unique
    unstack value_counts var where xs dayofweek day_name month_name is_month_end is_leap_year strip contains extract
    map mask join merge nonzero ewm cumcount ngroup sub mul truediv flat c_ left_on right_on start_time end_time

    add_axes add_patch add_subplot annotate arrow axhline axhspan axvline axvspan axis bar bar_label barh boxplot
    colorbar contour contourf errorbar figure fill fill_between fill_betweenx grid hexbin hist hist2d hlines imshow
    invert_xaxis invert_yaxis legend loglog margins patch pcolormesh pie plot polar quiver scatter semilogx semilogy
    set_aspect set_axis_off set_facecolor set_title set_visible set_xlabel set_xlim set_xscale set_xticks
    set_xticklabels set_ylabel set_ylim set_yscale set_yticks set_yticklabels spines stackplot stem step suptitle text
    tick_params tight_layout twinx twiny violinplot vlines xaxis yaxis subplots_adjust autofmt_xdate set_linewidth
    set_color get_legend_handles_labels get_xlim get_ylim
    """
)
READING_SPECIAL = words("__name__ __qualname__ _asdict _replace _fields _make")

# Methods that change their receiver: certain only if the receiver was created in the same call.
MUTATING = words(
    """
    add append appendleft clear difference_update discard extend extendleft insert intersection_update move_to_end pop
    popitem popleft remove reverse rotate seek setdefault sort subtract symmetric_difference_update update write
    writeheader writerow writerows writelines prepare done get_ready truncate set_seqs
    """
)
STORING_ONE = words("add append appendleft insert setdefault heappush")
# Methods whose result is a new object, whatever the receiver is.
NEW = words(
    """
    copy difference intersection symmetric_difference union most_common tolist to_dict to_list model_dump groups
    groupdict findall split rsplit splitlines partition rpartition assign astype dropna drop fillna groupby head melt
    merge nlargest nsmallest pivot pivot_table rename reset_index round set_index sort_index sort_values tail
    value_counts describe
    """
)
# Methods whose result cannot be changed.
IMMUTABLE = words(
    """
    capitalize casefold center count decode encode endswith expandtabs find hexdigest index isalnum isalpha isdecimal
    isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip removeprefix removesuffix rfind rindex
    rjust rstrip startswith strip swapcase title total_seconds translate upper zfill isoformat strftime
    timestamp weekday
    isoweekday toordinal today now fromisoformat getvalue to_integral_value quantize ratio sub random randint uniform
    """
)
IMMUTABLE_CALLS = words(
    """
    builtins.abs builtins.ascii builtins.bin builtins.bool builtins.bytes builtins.chr builtins.complex builtins.float
    builtins.format builtins.hash builtins.hex builtins.id builtins.int builtins.isinstance builtins.issubclass
    builtins.len builtins.oct builtins.ord builtins.pow builtins.repr builtins.round builtins.str builtins.sum
    builtins.any builtins.all builtins.range decimal.Decimal fractions.Fraction json.dumps datetime.date
    datetime.datetime datetime.time datetime.timedelta random.random random.randint random.uniform statistics.mean
    statistics.fmean statistics.stdev statistics.pstdev statistics.variance time.time re.sub uuid.uuid4 textwrap.dedent
    """
)
COPIES = words(
    """
    builtins.dict builtins.frozenset builtins.list builtins.set builtins.sorted builtins.tuple builtins.bytearray
    collections.Counter collections.OrderedDict collections.deque array.array builtins.iter builtins.filter
    """
)
PAIRS = words("builtins.enumerate builtins.zip")
OBJECTS = words(
    """
    collections.defaultdict csv.DictWriter csv.writer decimal.localcontext graphlib.TopologicalSorter hashlib.md5
    hashlib.sha1 hashlib.sha224 hashlib.sha256 hashlib.sha384 hashlib.sha512 hashlib.blake2b hashlib.blake2s hmac.new
    io.BytesIO io.StringIO random.Random types.SimpleNamespace difflib.SequenceMatcher
    """
)
# Methods whose result is used up by reading it.
LASTING = words(
    """
    elements finditer iterrows itertuples itermonthdates hosts subnets get_matching_blocks static_order
    groupby rolling
    """
)
# Objects that a `with` statement gives as they are.
CONTEXTS = words("decimal.localcontext io.BytesIO io.StringIO")
# Attributes that are another view of the same object.
VIEWS = words("at iat iloc loc")

# Methods of data frames that take the name of another method: certain with the names of reductions only.
APPLYING = words("agg aggregate apply transform")
REDUCTIONS = words("all any count first last max mean median min nunique prod quantile rank size std sum var")
# Methods that return a text, or write to their first argument: certain without any but these keywords.
EXPORTING = words("to_csv to_html to_json to_latex to_markdown to_string")
EXPORT_KEYWORDS = words("columns date_format float_format header indent index index_names justify na_rep orient sep")
GUARDED = APPLYING | EXPORTING | words("format savefig")
# Keywords that make a listed method do more.
KEYWORDS = words("aggfunc backend fname usetex")

# Types whose values cannot be changed.
IMMUTABLE_TYPES = words(
    """
    builtins.bool builtins.bytes builtins.complex builtins.float builtins.int builtins.str datetime.date
    datetime.datetime datetime.time datetime.timedelta decimal.Decimal fractions.Fraction uuid.UUID
    pydantic.EmailStr pydantic.NonNegativeFloat pydantic.NonNegativeInt pydantic.PositiveFloat pydantic.PositiveInt
    """
)
# Calls that may stand in a type.
TYPE_CALLS = words(
    """
    collections.namedtuple pydantic.AfterValidator pydantic.BeforeValidator pydantic.Field pydantic.StringConstraints
    pydantic.confloat pydantic.conint pydantic.constr typing.NewType typing.TypeVar
    """
)
