/* The short cut of `repeat.py`, read byte by byte: what `split.py` does where this could not be built.
 *
 * A frame that repeats is known as literals with holes between them:
 *
 *     literals[0]  hole 0  literals[1]  hole 1  ...  literals[n]
 *
 * A frame fits when each literal is there byte for byte and each hole holds what its kind allows. What does not fit, or
 * only may fit, ends the scan before it: the frame is then decoded the complete way, which alone judges what is wrong
 * with it. So this file may be too strict, never too lenient, and it must leave no trace of a frame that it does not take.
 *
 * A text is appended to the sink only when its whole frame has fitted. Until then nothing is written.
 *
 * A frame stands alone (`payload`, `run`) or on the wire as one event of SSE (`skim`, `one`): after what leads to it, its
 * event's name and `data:`, and before a blank line. A hole takes no line end, so only a literal may have one; a frame
 * that has is not taken on the wire, where it would be several lines.
 *
 * The one thing here that is not a comparison is a JSON string body (RFC 8259, section 7): its escapes are spelled out,
 * its bytes must be UTF-8 (RFC 3629), and half of a surrogate pair does not fit.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <structmember.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef const unsigned char *Bytes;

/* The kinds of holes, as in `split.py`. */
enum kind { TEXT, PADDING, NUMBER, SPACES };

#define MOST_HOLES 8

/* Frames taken in one go; who calls has limits to watch over. */
#define MOST_AT_ONCE 256

/* What ends an event on the wire. */
#define BLANK_LINE "\n\n"

#define NO_TEXT {{NULL, 0}, 0}

/* What a byte is inside a JSON string. */
enum sort { PLAIN, QUOTE, BACKSLASH, CONTROL, LEAD2, LEAD3, LEAD4, STRAY };

static unsigned char SORT[256];

/* What padding and timestamps are made of: none of it ends, or has to be escaped in, a JSON string. */
static const char NOISE[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz:.+_-";

static unsigned char IS_NOISE[256];

static enum sort
sort_of(int byte)
{
    if (byte < 0x80)
        return byte == '"' ? QUOTE : byte == '\\' ? BACKSLASH : byte < 0x20 ? CONTROL : PLAIN;
    if (byte < 0xc2 || byte >= 0xf5)
        return STRAY; /* continuations, C0 and C1 (overlong), F5 and above */
    return byte < 0xe0 ? LEAD2 : byte < 0xf0 ? LEAD3 : LEAD4;
}

/* Fills the tables. A second interpreter does so again while the first may be reading: each entry only ever gets the
 * one value that it has. */
static void
sort_bytes(void)
{
    for (const char *noise = NOISE; *noise; noise++)
        IS_NOISE[(unsigned char)*noise] = 1;
    for (int byte = 0; byte < 256; byte++)
        SORT[byte] = (unsigned char)sort_of(byte);
}

typedef struct {
    Bytes at;
    Py_ssize_t size;
} Span;

/* What a hole with text holds. */
typedef struct {
    Span body;
    int escaped;
} Text;

typedef struct {
    PyObject_HEAD
    PyObject *literals; /* a tuple of bytes */
    PyObject *kinds;    /* bytes, one for each hole */
    PyObject *lead;     /* what led to the last payload on the wire */
    PyObject *no_lead;  /* what leads to a payload that comes without any framing: nothing */
    PyObject *sink;     /* a bytearray of UTF-8 */
    uint64_t number;    /* of the last frame taken */
    Py_ssize_t hits;
    int flags;
    int in_lines;       /* a literal has a line end in it */
} Scanned;

/* A pattern as one call sees it. */
typedef struct {
    Span lead, tail;
    Span literals[MOST_HOLES + 1];
    Py_ssize_t holes;
    Bytes kinds;
} Pattern;

/* ------------------------------------------------------------------ characters */

static int
continues(Bytes at, int count)
{
    for (int place = 1; place <= count; place++)
        if ((at[place] & 0xc0) != 0x80)
            return 0;
    return 1;
}

/* How many bytes the character has that begins here with a byte of 0x80 or more; 0 if it is not UTF-8. */
static int
wide(Bytes at, Bytes end, int sort)
{
    int length = sort - LEAD2 + 2;
    if (sort == STRAY || end - at < length || !continues(at, length - 1))
        return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xf0 && at[1] < 0x90))
        return 0; /* spelled longer than need be */
    if ((at[0] == 0xed && at[1] >= 0xa0) || (at[0] == 0xf4 && at[1] >= 0x90))
        return 0; /* a surrogate, or beyond the last character */
    return length;
}

/* The number that four hexadecimal digits spell, or -1. */
static int32_t
hexadecimal(Bytes at, Bytes end)
{
    int32_t value = 0;
    if (end - at < 4)
        return -1;
    for (int place = 0; place < 4; place++) {
        int digit = at[place];
        if (digit >= '0' && digit <= '9')
            digit -= '0';
        else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f')
            digit = (digit | 0x20) - 'a' + 10;
        else
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* Reads one escape from its backslash on. Returns where it ends and says which character it spells; NULL if none. */
static Bytes
escape(Bytes at, Bytes end, uint32_t *character)
{
    static const char LETTERS[] = "\"\\/bfnrt", MEANT[] = "\"\\/\b\f\n\r\t";
    if (end - at < 2)
        return NULL;
    if (at[1] != 'u') {
        const char *letter = memchr(LETTERS, at[1], sizeof LETTERS - 1);
        if (letter == NULL)
            return NULL;
        *character = (unsigned char)MEANT[letter - LETTERS];
        return at + 2;
    }
    int32_t first = hexadecimal(at + 2, end);
    if (first < 0 || (first >= 0xdc00 && first < 0xe000))
        return NULL;
    *character = (uint32_t)first;
    if (first < 0xd800 || first >= 0xe000)
        return at + 6;
    if (end - at < 12 || at[6] != '\\' || at[7] != 'u')
        return NULL;
    int32_t second = hexadecimal(at + 8, end);
    if (second < 0xdc00 || second >= 0xe000)
        return NULL;
    *character = (uint32_t)(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
    return at + 12;
}

/* Writes a character as UTF-8; returns where it ends. It is never longer than its escape. */
static unsigned char *
write_character(unsigned char *to, uint32_t character)
{
    if (character < 0x80) {
        *to++ = (unsigned char)character;
        return to;
    }
    if (character < 0x800) {
        *to++ = (unsigned char)(0xc0 | character >> 6);
    } else {
        if (character < 0x10000) {
            *to++ = (unsigned char)(0xe0 | character >> 12);
        } else {
            *to++ = (unsigned char)(0xf0 | character >> 18);
            *to++ = (unsigned char)(0x80 | (character >> 12 & 0x3f));
        }
        *to++ = (unsigned char)(0x80 | (character >> 6 & 0x3f));
    }
    *to++ = (unsigned char)(0x80 | (character & 0x3f));
    return to;
}

/* Writes what a string body spells; returns where it ends. It is never longer than the body. */
static unsigned char *
spell(unsigned char *to, Span body)
{
    Bytes at = body.at, end = at + body.size;
    while (at < end) {
        uint32_t character = *at;
        if (character == '\\') {
            at = escape(at, end, &character);
            to = write_character(to, character);
        } else {
            *to++ = *at++;
        }
    }
    return to;
}

/* ------------------------------------------------------------------ holes */

/* Each takes a hole that begins at `at` and returns where it ends, or NULL when what is there does not fit. */

static Bytes
text_hole(Bytes at, Bytes end, Text *text)
{
    uint32_t character;
    text->body.at = at;
    text->escaped = 0;
    for (;;) {
        while (at < end && SORT[*at] == PLAIN)
            at++;
        if (at == end)
            return NULL;
        int sort = SORT[*at];
        if (sort == QUOTE)
            break;
        if (sort == CONTROL)
            return NULL;
        if (sort == BACKSLASH) {
            text->escaped = 1;
            at = escape(at, end, &character);
            if (at == NULL)
                return NULL;
        } else {
            int length = wide(at, end, sort);
            if (length == 0)
                return NULL;
            at += length;
        }
    }
    text->body.size = at - text->body.at;
    return at;
}

static Bytes
padding_hole(Bytes at, Bytes end)
{
    while (at < end && IS_NOISE[*at])
        at++;
    return at;
}

static Bytes
spaces_hole(Bytes at, Bytes end)
{
    while (at < end && *at == ' ')
        at++;
    return at;
}

/* The number that is due, and no other. */
static Bytes
number_hole(Bytes at, Bytes end, uint64_t due)
{
    uint64_t number = 0;
    Bytes begin = at;
    while (at < end && *at >= '0' && *at <= '9' && at - begin < 18)
        number = number * 10 + (*at++ - '0');
    if (at == begin || (*begin == '0' && at - begin > 1) || number != due)
        return NULL;
    return at;
}

/* ------------------------------------------------------------------ frames */

static Span
span_of(PyObject *bytes)
{
    return (Span){(Bytes)PyBytes_AsString(bytes), PyBytes_Size(bytes)};
}

static Pattern
pattern_of(const Scanned *self, PyObject *lead)
{
    Pattern pattern;
    pattern.lead = span_of(lead);
    pattern.tail = (Span){(Bytes)BLANK_LINE, pattern.lead.size > 0 ? sizeof BLANK_LINE - 1 : 0};
    pattern.holes = PyBytes_Size(self->kinds);
    pattern.kinds = (Bytes)PyBytes_AsString(self->kinds);
    for (Py_ssize_t place = 0; place <= pattern.holes; place++)
        pattern.literals[place] = span_of(PyTuple_GetItem(self->literals, place));
    return pattern;
}

static Bytes
literal(Span expected, Bytes at, Bytes end)
{
    if (end - at < expected.size || memcmp(at, expected.at, (size_t)expected.size) != 0)
        return NULL;
    return at + expected.size;
}

/* Reads one frame; returns where it ends, or NULL when it does not fit. */
static Bytes
frame(const Pattern *pattern, Bytes at, Bytes end, uint64_t due, Text *text)
{
    at = literal(pattern->lead, at, end);
    for (Py_ssize_t place = 0; at != NULL && place < pattern->holes; place++) {
        at = literal(pattern->literals[place], at, end);
        if (at == NULL)
            return NULL;
        switch (pattern->kinds[place]) {
        case TEXT:
            at = text_hole(at, end, text);
            break;
        case PADDING:
            at = padding_hole(at, end);
            break;
        case NUMBER:
            at = number_hole(at, end, due);
            break;
        default:
            at = spaces_hole(at, end);
        }
    }
    if (at != NULL)
        at = literal(pattern->literals[pattern->holes], at, end);
    return at != NULL ? literal(pattern->tail, at, end) : NULL;
}

/* Takes a frame that has fitted: appends its text. Returns -1 with an exception set when there is no room for it. */
static int
take(Scanned *self, const Text *text)
{
    if (text->body.size > 0) {
        Py_ssize_t before = PyByteArray_Size(self->sink);
        if (PyByteArray_Resize(self->sink, before + text->body.size) < 0)
            return -1;
        unsigned char *begin = (unsigned char *)PyByteArray_AsString(self->sink), *to = begin + before;
        if (!text->escaped)
            memcpy(to, text->body.at, (size_t)text->body.size);
        else if (PyByteArray_Resize(self->sink, spell(to, text->body) - begin) < 0)
            return -1;
    }
    self->number++;
    self->hits++;
    return 0;
}

/* ------------------------------------------------------------------ what Python calls */

static PyObject *
not_bytes(void)
{
    PyErr_SetString(PyExc_TypeError, "expected bytes");
    return NULL;
}

/* The flags of the one frame that these bytes are, or None when they are none. */
static PyObject *
alone(Scanned *self, PyObject *data, PyObject *lead)
{
    if (!PyBytes_Check(data))
        return not_bytes();
    Text text = NO_TEXT;
    Pattern pattern = pattern_of(self, lead);
    Span all = span_of(data);
    if (frame(&pattern, all.at, all.at + all.size, self->number + 1, &text) != all.at + all.size)
        Py_RETURN_NONE;
    if (take(self, &text) < 0)
        return NULL;
    return PyLong_FromLong(text.body.size > 0 ? self->flags : 0);
}

static PyObject *
Scanned_one(Scanned *self, PyObject *data)
{
    if (self->in_lines)
        Py_RETURN_NONE;
    return alone(self, data, self->lead);
}

static PyObject *
Scanned_payload(Scanned *self, PyObject *payload)
{
    return alone(self, payload, self->no_lead);
}

/* Where a call begins; -1 with an exception set when that is no place in what it reads. */
static Py_ssize_t
start_of(PyObject *at, Py_ssize_t size)
{
    Py_ssize_t start = PyLong_AsSsize_t(at);
    if (start >= 0 && start <= size)
        return start;
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_IndexError, "this place is outside");
    return -1;
}

static PyObject *
Scanned_skim(Scanned *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "expected bytes, a place in them, and what leads to a payload");
        return NULL;
    }
    Span all = span_of(args[0]);
    Py_ssize_t start = start_of(args[1], all.size);
    if (start < 0)
        return NULL;
    if (self->in_lines)
        return Py_BuildValue("ni", (Py_ssize_t)0, 0);
    if (args[2] != self->lead) {
        PyObject *before = self->lead;
        self->lead = Py_NewRef(args[2]);
        Py_DECREF(before);
    }
    Text text = NO_TEXT;
    Pattern pattern = pattern_of(self, self->lead);
    Bytes at = all.at + start, end = all.at + all.size;
    int flags = 0;
    for (int frames = 0; frames < MOST_AT_ONCE; frames++) {
        Bytes next = frame(&pattern, at, end, self->number + 1, &text);
        if (next == NULL)
            break;
        if (take(self, &text) < 0)
            return NULL;
        if (text.body.size > 0)
            flags = self->flags;
        at = next;
    }
    return Py_BuildValue("ni", (Py_ssize_t)(at - all.at) - start, flags);
}

static PyObject *
Scanned_run(Scanned *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "expected a list of payloads, and a place in it");
        return NULL;
    }
    Py_ssize_t size = PyList_Size(args[0]), at = start_of(args[1], size);
    if (at < 0)
        return NULL;
    Text text = NO_TEXT;
    Pattern pattern = pattern_of(self, self->no_lead);
    int flags = 0;
    for (; at < size; at++) {
        PyObject *payload = PyList_GetItem(args[0], at);
        if (!PyBytes_Check(payload))
            break;
        Span all = span_of(payload);
        if (frame(&pattern, all.at, all.at + all.size, self->number + 1, &text) != all.at + all.size)
            break;
        if (take(self, &text) < 0)
            return NULL;
        if (text.body.size > 0)
            flags = self->flags;
    }
    return Py_BuildValue("ni", at, flags);
}

static PyObject *
Scanned_number(Scanned *self, void *closure)
{
    if (memchr(PyBytes_AsString(self->kinds), NUMBER, (size_t)PyBytes_Size(self->kinds)) == NULL)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(self->number);
}

/* Whether each hole is of a kind that is known, and at most one of them has the text. */
static int
are_kinds(Span kinds)
{
    int texts = 0;
    for (Py_ssize_t place = 0; place < kinds.size; place++) {
        if (kinds.at[place] > SPACES)
            return 0;
        texts += kinds.at[place] == TEXT;
    }
    return texts <= 1;
}

static int
has_line_end(Span literal)
{
    return memchr(literal.at, '\n', (size_t)literal.size) != NULL || memchr(literal.at, '\r', (size_t)literal.size) != NULL;
}

static PyObject *
Scanned_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *NAMES[] = {"literals", "kinds", "sink", "flags", "number", NULL};
    PyObject *literals, *kinds, *sink;
    int flags;
    unsigned long long number = 0;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!O!O!i|K", NAMES, &PyTuple_Type, &literals, &PyBytes_Type, &kinds,
                                     &PyByteArray_Type, &sink, &flags, &number))
        return NULL;
    Py_ssize_t holes = PyBytes_Size(kinds);
    if (holes > MOST_HOLES || PyTuple_Size(literals) != holes + 1) {
        PyErr_Format(PyExc_ValueError, "expected at most %d holes and one literal more", MOST_HOLES);
        return NULL;
    }
    if (!are_kinds(span_of(kinds))) {
        PyErr_SetString(PyExc_ValueError, "expected known kinds of holes, and one text");
        return NULL;
    }
    int in_lines = 0;
    for (Py_ssize_t place = 0; place <= holes; place++) {
        PyObject *literal = PyTuple_GetItem(literals, place);
        if (!PyBytes_Check(literal))
            return not_bytes();
        in_lines |= has_line_end(span_of(literal));
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Scanned *self = (Scanned *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->literals = Py_NewRef(literals);
    self->kinds = Py_NewRef(kinds);
    self->sink = Py_NewRef(sink);
    self->no_lead = PyBytes_FromStringAndSize(NULL, 0); /* the one empty bytes object that Python has */
    self->lead = Py_XNewRef(self->no_lead);
    self->flags = flags;
    self->number = number;
    self->in_lines = in_lines;
    if (self->no_lead == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
Scanned_dealloc(Scanned *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF(self->literals);
    Py_XDECREF(self->kinds);
    Py_XDECREF(self->sink);
    Py_XDECREF(self->lead);
    Py_XDECREF(self->no_lead);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type); /* an object of a type made at run time holds its type */
}

static PyMethodDef METHODS[] = {
    {"one", (PyCFunction)Scanned_one, METH_O, NULL},
    {"payload", (PyCFunction)Scanned_payload, METH_O, NULL},
    {"skim", (PyCFunction)(void (*)(void))Scanned_skim, METH_FASTCALL, NULL},
    {"run", (PyCFunction)(void (*)(void))Scanned_run, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef MEMBERS[] = {
    {"hits", T_PYSSIZET, offsetof(Scanned, hits), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef PROPERTIES[] = {
    {"number", (getter)Scanned_number, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot SLOTS[] = {
    {Py_tp_doc, "One frame cut around its holes, and where its text goes."},
    {Py_tp_new, Scanned_new},
    {Py_tp_dealloc, Scanned_dealloc},
    {Py_tp_methods, METHODS},
    {Py_tp_members, MEMBERS},
    {Py_tp_getset, PROPERTIES},
    {0, NULL},
};

static PyType_Spec SPEC = {
    .name = "streamfold.wire._scan.Scanned",
    .basicsize = sizeof(Scanned),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = SLOTS,
};

static int
add_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &SPEC, NULL);
    if (type == NULL)
        return -1;
    int added = PyModule_AddObjectRef(module, "Scanned", type);
    Py_DECREF(type);
    return added;
}

static PyModuleDef_Slot MODULE_SLOTS[] = {
    {Py_mod_exec, add_type},
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "streamfold.wire._scan",
    .m_doc = "Frames that repeat, read byte by byte.",
    .m_slots = MODULE_SLOTS,
};

PyMODINIT_FUNC
PyInit__scan(void)
{
    sort_bytes();
    return PyModuleDef_Init(&MODULE);
}
